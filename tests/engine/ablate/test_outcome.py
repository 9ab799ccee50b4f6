"""What an ablation says of finished trials."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from detcli.engine.ablate import report
from detcli.engine.ablate.outcome import evaluate_trials, pooled_spread
from detcli.engine.ablate.trial import write_result
from detcli.engine.run.log import RunLog
from detcli.evaluation import bootstrap, evaluate_coco, match
from detcli.predictions.with_truth import load_prediction_files
from tests.engine.ablate.folders import make_folder

LOG = RunLog(quiet=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    plan, trials = make_folder(folder)
    return folder, trials, evaluate_trials(plan, trials, LOG, 200)


def test_ap_is_that_of_each_trial_and_their_mean(measured):
    _, trials, outcome = measured
    for row in outcome.rows:
        files = load_prediction_files(
            [trial.predictions for trial in trials if trial.system == row.system.name],
            None,
            allow_threshold=False,
            need_truth=True,
        )
        values = [evaluate_coco(files.ground_truth, table).metrics["AP"] for table in files.tables]
        np.testing.assert_allclose(row.values, values, atol=1e-12)
        assert row.metrics["AP"] == pytest.approx(np.mean(values))
        assert row.spread == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))


def test_the_interval_is_that_of_the_mean_over_seeds_on_the_same_resamples(measured):
    _, trials, outcome = measured
    files = load_prediction_files(
        [trial.predictions for trial in trials], None, allow_threshold=False, need_truth=True
    )
    tables = [match(files.ground_truth, table) for table in files.tables]
    samples = bootstrap(files.ground_truth, tables, metrics=("AP",), resamples=200).samples["AP"]
    where = {
        name: [i for i, trial in enumerate(trials) if trial.system == name]
        for name in ("base", "mosaic")
    }
    drawn = samples[where["mosaic"]].mean(0) - samples[where["base"]].mean(0)
    delta = outcome.row("mosaic").delta
    assert (delta.low, delta.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert delta.mean == pytest.approx(drawn.mean())


def test_verdicts(measured):
    rows = {row.system.name: row for row in measured[2].rows}
    assert rows["base"].verdict == "baseline"
    assert rows["ema"].verdict == "not distinguishable"
    assert rows["mosaic"].verdict == "helps"


def test_removing_what_helps_is_told_as_helping(tmp_path):
    plan, trials = make_folder(tmp_path, mode="leave-one-out")
    rows = {row.system.name: row for row in evaluate_trials(plan, trials, LOG, 200).rows}
    assert rows["all-but-mosaic"].delta.value < 0
    assert rows["all-but-mosaic"].verdict == "helps"


def test_a_clear_difference_within_the_spread_of_seeds_is_not_told_apart(measured):
    row = measured[2].row("mosaic")
    wide = replace(row, seed_margin=2 * abs(row.delta.value))
    assert wide.verdict == "not distinguishable (seeds)"


def test_the_seed_margin_is_student_s_interval():
    """With two systems it is the pooled two-sample interval."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 0.01, 4), rng.normal(0.4, 0.01, 3)
    interval = stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    margin = pooled_spread([ours, theirs]).margin(4, 3)
    assert margin == pytest.approx((interval.high - interval.low) / 2)


def test_one_seed_has_no_spread_and_says_so(tmp_path):
    plan, trials = make_folder(tmp_path, seeds=1)
    outcome = evaluate_trials(plan, trials, LOG, 50)
    assert all(row.spread is None and row.seed_margin is None for row in outcome.rows)
    assert any("one seed" in note for note in outcome.notes)
    assert outcome.row("mosaic").verdict == "helps (one seed)"
    assert pooled_spread([[0.5], [0.4]]).margin(1, 1) is None


def test_costs_are_those_of_the_run(measured):
    cost = measured[2].row("ema").cost
    assert cost.train_ms_per_image == pytest.approx(1000 * 6 / 16)
    assert cost.eval_ms_per_image == pytest.approx(1000 * 0.4 / 40)
    assert (cost.memory_gib, cost.train_seconds) == (2.0, 6.0)


def test_times_are_minutes_and_seconds(measured):
    row = measured[2].row("ema")
    slow = replace(row, cost=replace(row.cost, train_seconds=179.7))
    outcome = replace(measured[2], rows=(slow,))
    assert "3:00" in report.table_rows(outcome)[0]


def test_an_augmentation_that_never_fired_is_said(measured):
    assert measured[2].row("mosaic").idle == ("mosaic",)
    assert any(note.startswith("mosaic: mosaic ") for note in measured[2].notes)


def test_failed_trials_are_rows_and_the_others_are_measured(tmp_path):
    plan, trials = make_folder(tmp_path)
    broken = [trial for trial in trials if trial.system == "ema" or trial.name == "mosaic, seed 1"]
    for trial in broken:
        write_result(trial, "CUDA out of memory")
    outcome = evaluate_trials(plan, trials, LOG, 50)
    ema, mosaic = outcome.row("ema"), outcome.row("mosaic")
    assert (ema.values, ema.delta, ema.cost, ema.verdict) == ((), None, None, "failed")
    assert ema.failed == {0: "CUDA out of memory", 1: "CUDA out of memory"}
    assert len(mosaic.values) == 1
    # only base has two seeds left, and one degree of freedom tells nearly nothing
    assert mosaic.verdict == "not distinguishable (seeds)"
    assert outcome.failures == 3
    json.dumps(report.to_json(outcome), allow_nan=False)


def test_nothing_to_compare_with_is_said(tmp_path):
    plan, trials = make_folder(tmp_path, seeds=1)
    write_result(trials[0], "killed by SIGKILL (out of memory?)")
    outcome = evaluate_trials(plan, trials, LOG, 50)
    assert outcome.rows[0].verdict == "failed"
    assert outcome.row("mosaic").verdict == "cannot be said"


def test_no_trial_at_all_gives_a_table_of_failures(tmp_path):
    plan, trials = make_folder(tmp_path, seeds=1)
    for trial in trials:
        write_result(trial, "no")
    outcome = evaluate_trials(plan, trials, LOG, 50)
    assert {row.verdict for row in outcome.rows} == {"failed"}
    report.write_report(tmp_path, outcome)


def test_reports_hold_the_same_figures(measured):
    folder, _, outcome = measured
    written = report.write_report(folder, outcome)
    assert {path.name for path in written} == {
        "ablation.json",
        "ablation.csv",
        "ablation.html",
        "differences.png",
        "differences.svg",
        "ap_against_time.png",
        "ap_against_time.svg",
    }
    document = json.loads((folder / "ablation.json").read_text())
    assert [row["trick"] for row in document["rows"]] == ["ema", "mosaic"]
    assert document["base"]["AP"] == outcome.rows[0].metrics["AP"]
    lines = list(csv.DictReader(io.StringIO((folder / "ablation.csv").read_text())))
    assert [float(line["AP"]) for line in lines] == [row.metrics["AP"] for row in outcome.rows]
    assert lines[2]["verdict"] == "helps"
    assert float(lines[2]["delta_low"]) == outcome.row("mosaic").delta.low
    page = (folder / "ablation.html").read_text()
    assert page.count("<svg") == 2
    assert "data.augment.mosaic.prob" in page
    assert all(len(row) == len(report.HEADER) for row in report.table_rows(outcome))
