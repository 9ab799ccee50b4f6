"""Tables and documents of given figures."""

import json

from detcli.engine.profile import report, versus
from detcli.engine.profile.session import Comparison
from detcli.engine.profile.timing import Spread
from tests.engine.profile.made import made, made_loader, made_model, made_post, made_step

MODEL_KEYS = {"params_total", "params_trainable", "gmacs", "latency_ms", "images_per_s"}


def whole(**changes):
    parts = {"model": made_model(fused=5.0), "loader": made_loader(20.0, 40.0)}
    parts |= {"step": made_step(), "post": made_post()}
    return made(**{**parts, "notes": ("a note",), **changes})


def test_the_document_has_the_fixed_keys():
    document = report.to_json(whole(), "cpu")
    assert {"model", "loader", "step", "post", "verdict"} <= set(document)
    assert set(document["model"]) >= MODEL_KEYS
    assert document["model"]["latency_ms"] == {"p50": 10.0, "p90": 10.0, "p99": 10.0}
    assert document["model"]["images_per_s"] == 100.0
    assert document["model"]["gmacs"] == 4.0
    assert document["model"]["fused"]["batches"][0]["time_ratio"]["median"] == 0.5
    assert document["noted_columns"] == {"Mem": 0.0004, "task/s": 100.0, "training_mib": 2048.0}
    assert document["post"]["candidates_per_image"] == 20
    assert [row["relative_time"] for row in document["post"]["methods"]] == [1.0, 2.0]
    assert isinstance(document["verdict"], str)
    assert document["verdict"].startswith("compute-bound")
    json.dumps(document, allow_nan=False)


def test_parts_that_were_not_asked_for_are_null():
    document = report.to_json(made(), "cpu")
    assert [document[part] for part in ("model", "loader", "step", "post")] == [None] * 4
    assert document["verdict"] == ""
    assert set(document["noted_columns"].values()) == {None}


def test_every_row_of_a_table_fits_its_header():
    shown = list(report.tables(whole(), "cpu"))
    assert [table.title.split(":")[0] for table in shown] == [
        "tiny",
        "forward pass",
        "columns as in published tables",
        "loading",
        "one image in the main process",
        "step",
        "the same batches with other settings, interleaved",
        "post-processing",
    ]
    for table in shown:
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
    forward = shown[1].rows
    assert [row[0] for row in forward] == ["plain", "fused, 2 parts"]
    assert forward[1][-1].startswith("0.50")


def test_small_parts_have_no_row_but_are_in_the_document():
    model = made_model()
    deep = [("head.big", 10**9, 50), ("head.tiny", 10**6, 0), ("head.many", 10**6, 30)]
    parts = [type(model.parts[0])(name, 2, count, count, macs, 0) for name, macs, count in deep]
    model = type(model)(**{**vars(model), "parts": (*model.parts, *parts)})
    shown = next(report.tables(made(model=model), "cpu")).rows
    assert [row[0].strip() for row in shown] == [
        "network",
        "backbone",
        "head",
        "head.big",
        "head.many",
    ]
    names = [part["name"] for part in report.to_json(made(model=model), "cpu")["model"]["parts"]]
    assert "head.tiny" in names


def test_what_others_noted_is_quoted():
    recipe = made().recipe
    expected = [{"source": "notes", "AP": 0.3, "note": "Mem 257.9"}, {"source": "paper"}]
    recipe = type(recipe).model_validate(recipe.model_dump() | {"expected": expected})
    found = type(made())(recipe, None, None, None, None, ())
    assert list(report.noted_lines(found)) == ["notes: Mem 257.9"]


def test_rates_far_from_one_keep_their_digits():
    assert [report.rate(value) for value in (0.0339, 2.5, 1234.56)] == ["0.0339", "2.5", "1234.6"]


def test_two_recipes_figure_by_figure():
    second = whole(model=made_model(20.0), post=None)
    both = Comparison(whole(), second, Spread(2.0, 1.9, 2.1), Spread(0.5, 0.4, 0.6))
    found = {each.label: each for each in versus.figures(both)}
    assert found["forward pass, batch 1 (ms)"].paired == Spread(2.0, 2.0, 2.0)
    assert found["GMACs"].ratio == 1.0
    assert found[versus.LOADING].ratio == 2.0  # as measured in turn, not of the separate figures
    assert found[versus.STEP_TIME].ratio == 0.5
    assert found["nms (ms/image)"].second is None
    assert found["nms (ms/image)"].ratio is None
    table = versus.versus_table(both)
    assert all(len(row) == len(table.columns) for row in table.rows)
    ratios = versus.ratios_json(both)
    assert ratios[versus.LOADING] == {"median": 2.0, "low": 1.9, "high": 2.1}
    assert ratios["nms (ms/image)"] is None
    json.dumps(ratios, allow_nan=False)
