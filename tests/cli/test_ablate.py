"""Trials in processes of their own: failures, interruptions, two nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.run_cli import run
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


def arguments(recipe: Path, folder: Path, *more: str) -> list[str]:
    return ["ablate", str(recipe), "--out", str(folder), "--gpus", "0", "--bootstrap", "20", *more]


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "detcli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def ended(folder: Path) -> dict[str, int]:
    """When each trial that has ended did so."""
    return {
        str(path.parent.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.glob("*/*/result.json")
    }


def wait_for(happened, process: subprocess.Popen) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_interrupted_twice_it_goes_on_without_repeating(tmp_path):
    recipe, folder = write_tiny(tmp_path), tmp_path / "out"
    words = arguments(recipe, folder, "--tricks", "ema")

    process = start(*words)
    wait_for(lambda: len(ended(folder)) == 1, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"in {folder}" in said
    first = ended(folder)
    assert list(first) == ["base/seed-0"]

    process = start(*words)
    wait_for((folder / "ema/seed-0/run/log.txt").is_file, process)
    process.kill()  # leaves its trial behind, which goes on
    process.communicate()
    orphaned = start(*words)
    _, said = orphaned.communicate(timeout=120)
    if orphaned.returncode == 2:  # else the trial ended before this process got there
        assert "--out" in said
    while orphaned.returncode == 2:
        time.sleep(0.2)
        orphaned = start(*words)
        _, said = orphaned.communicate(timeout=240)
    assert orphaned.returncode == 0, said
    last = ended(folder)
    assert last["base/seed-0"] == first["base/seed-0"]
    assert set(last) == {"base/seed-0", "ema/seed-0"}
    assert re.search("[12] of 2 trials ", said)
    # the trial that was left behind ended, or was resumed: one run of two epochs
    lines = (folder / "ema/seed-0/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines if '"kind": "epoch"' in line] == [1, 2]


def test_a_failing_trial_is_a_row_that_says_why(tmp_path, capsys):
    words = arguments(write_tiny(tmp_path), tmp_path / "out", "--tricks", "oversample", "--json")
    done = run(capsys, *words)
    assert done.code == 1
    (oversample,) = json.loads(done.out)["rows"]
    assert "data.augment.oversample cannot act" in oversample["failed"]["0"]
    assert (oversample["AP"], oversample["verdict"]) == (None, "failed")
    assert "trial 2/2 oversample, seed 0: failed: data.augment.oversample cannot act" in done.err

    # again: only what failed is tried again, and another trick joins
    before = ended(tmp_path / "out")
    again = arguments(write_tiny(tmp_path), tmp_path / "out", "--tricks", "ema", "--json")
    done = run(capsys, *again)
    assert done.code == 0
    assert "1 of 2 trials " in done.err
    (ema,) = json.loads(done.out)["rows"]
    assert ema["verdict"] == "not distinguishable"
    after = ended(tmp_path / "out")
    assert all(after[name] == before[name] for name in before)

    # another recipe may not mix with these trials
    done = run(capsys, *words, "schedule.epochs=3")
    assert done.code == 2
    assert "holds base, seed 0 of another recipe (it differs in schedule.epochs)" in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--tricks", "emma"), 2, "did you mean ema?"),
        (("--tricks", "giou"), 2, "giou changes nothing"),
        (("--tricks", "varifocal,quality-focal", "--mode", "all"), 2, "exclude each other"),
        (("--tricks", "ema", "data.batch_per_rank=0"), 2, "batch_per_rank"),
        (("--tricks", "ema", "--seeds", "0"), 2, "seeds"),
        (("--tricks", "ema", "--budget", "1.5"), 2, "budget"),
        (("--tricks", "ema", "--executor", "ray", "--jobs", "2"), 2, "--jobs"),
        (("--tricks", "ema", "--executor", "ray", "--address", "127.0.0.1:1"), 2, "no Ray cluster"),
    ],
)
def test_wrong_uses_end_before_the_first_trial(tmp_path, capsys, words, code, message):
    done = run(capsys, *arguments(write_tiny(tmp_path), tmp_path / "out", *words))
    assert done.code == code
    assert message in done.err
    assert not ended(tmp_path / "out")


def test_dry_run_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "out"
    done = run(capsys, *arguments(write_tiny(tmp_path), folder, "--tricks", "ema", "--dry-run"))
    assert done.code == 0
    assert "2 trials" in done.err
    assert not folder.exists()


def test_ray_trains_on_two_nodes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps 127.0.0.1 as it is
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        done = run(
            capsys,
            *arguments(
                write_tiny(tmp_path),
                tmp_path / "out",
                "--tricks",
                "ema,oversample",
                "--json",
                "--executor",
                "ray",
                "--address",
                cluster.address,
            ),
        )
    finally:
        cluster.shutdown()
    ema, oversample = json.loads(done.out)["rows"]
    assert done.code == 1
    assert ema["AP"] is not None
    assert "data.augment.oversample cannot act" in oversample["failed"]["0"]
    # each node has one core, so two trials at a time are two nodes at work
    spans = [
        (times[0], times[-1])
        for log in (tmp_path / "out").glob("*/*/run/log.txt")
        if (times := re.findall(r"^\d\d:\d\d:\d\d", log.read_text(), re.MULTILINE))
    ]
    assert len(spans) == 3
    (one, two) = sorted(spans)[:2]
    assert two[0] <= one[1], spans
