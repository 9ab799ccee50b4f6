"""`tta` on a real, tiny run."""

import json

import pytest

from tests.cli.run_cli import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_tta_says_gain_and_cost(capsys, finished, tmp_path, ticks):
    _, folder = finished
    done = run(
        capsys,
        "tta",
        folder,
        "--scales",
        "0.75,1.0",
        "--flip",
        "--slices",
        48,
        "--merge",
        "wbf iou_threshold=0.5",
        "--save-views",
        "--out",
        tmp_path,
        "--json",
        "--bootstrap",
        20,
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [row["view"] for row in found["rows"]] == [
        "scale 1",
        "scale 0.75",
        "slices 48",
        "scale 0.75 mirrored",
        "scale 1 mirrored",
        "slices 48 mirrored",
        "merged by wbf iou_threshold=0.5",
    ]
    measured = json.loads(run(capsys, "eval", folder, "--json").out)["metrics"]
    assert found["plain"] == measured
    gain = found["gain"]["AP"]
    assert gain["value"] == pytest.approx(found["merged"]["AP"] - found["plain"]["AP"])
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert found["cost"]["times_slower"] > 1  # a tick for each view, and those of merging
    # What was written is what was measured.
    for name, key in (("predictions.json", "merged"), ("plain.json", "plain")):
        measured = run(capsys, "eval", "--predictions", tmp_path / name, "--json")
        assert json.loads(measured.out)["metrics"] == found[key]
    views = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert len(views) == 6
    compared = run(capsys, "nms-compare", *(tmp_path / name for name in views), "--bootstrap", 0)
    assert compared.code == 0, compared.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to add"),
        (["--scales", "1,x"], "--scales: expected numbers"),
        (["--flip", "--merge", "wfb"], "'wfb'"),
        (["--flip", "--merge", "softer"], "'sigma'"),
        (["--flip", "--split", "everything"], "--split everything"),
    ],
)
def test_tta_wrong_uses_are_one_line(capsys, finished, arguments, words):
    done = run(capsys, "tta", finished[1], *arguments, "--quiet")
    assert done.code in (2, 3)
    assert len(done.err.strip().splitlines()) == 1
    assert words in done.err
