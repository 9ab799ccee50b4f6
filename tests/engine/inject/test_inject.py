"""Wrong detections as patches, and patches into images without objects."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from detcli.data.transforms.patches import Patches, read_patches
from detcli.engine.inject.hard_negatives import collect
from detcli.engine.inject.inject import Settings, new_folder, to_json, write_injected
from detcli.engine.run.log import RunLog
from detcli.errors import DataError, UsageError
from detcli.types import Detections
from tests.data.build import write_image

QUIET = RunLog(quiet=True)


def detections_of(first: list[tuple], second: list[tuple]) -> Detections:
    """Of both images: (score, label, left, top, width, height)."""
    rows = np.array([*first, *second], np.float64).reshape(-1, 6)
    return Detections(
        offsets=np.array([0, len(first), len(rows)], np.int64),
        boxes_xywh=rows[:, 2:],
        scores=rows[:, 0],
        labels=rows[:, 1].astype(np.int64),
    )


@pytest.fixture
def patches(records: Records) -> Patches:
    detections = detections_of([], [(0.95, 0, 50, 50, 20, 30), (0.6, 0, 100, 20, 20, 30)])
    return collect(records, detections, QUIET, min_score=0.3, max_patches=10, seed=0)


def settings(**changes: object) -> Settings:
    values = {
        "false_positives": 2,
        "objects": 1,
        "places": 5,
        "threshold": 0.0,
        "blend": "poisson",
        "seed": 3,
    }
    return Settings(**(values | changes))


@pytest.fixture
def empties(tmp_path: Path) -> list[Path]:
    """Three images without objects, one of them broken, and one too small for any patch."""
    for number, size in enumerate([(150, 200), (150, 200), (20, 20)]):
        write_image(tmp_path / "empty" / f"{number}.png", size, seed=10 + number)
    (tmp_path / "empty" / "broken.png").write_bytes(b"no image")
    return sorted((tmp_path / "empty").iterdir())


def test_the_data_set_is_coco_with_the_ids_of_the_run(
    patches: Patches, empties: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "injected"
    with new_folder(out) as folder:
        found = write_injected(folder, empties, patches, (3, 7), settings(), RunLog())
    assert "skipped: " in capsys.readouterr().err
    document = to_json(out, patches, found)
    assert document["unreadable"] == [str(tmp_path / "empty" / "broken.png")]
    assert document["patches"] == {"false_positives": 2, "objects": 1}
    assert (document["images"], document["unchanged"]) == (3, 1)
    assert document["placed"] == {"false_positives": 4, "objects": 2}
    assert document["no_room"] == {"false_positives": 2, "objects": 1}
    again = read_records(
        format="coco",
        root=str(out),
        name="train",
        split={"annotations": "annotations.json", "images": "images"},
    )
    assert (again.class_names, again.category_ids) == (("dog", "cat"), (3, 7))
    assert again.labels.tolist() == [1, 1]
    assert np.diff(again.offsets).tolist() == [1, 1, 0]
    assert np.allclose(again.boxes_xywh[:, 2:], [30, 20])
    assert len(read_patches(str(out / "patches")).negatives) == 2
    assert Image.open(out / "sheet.png").width > 1000
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_every_try_is_written_down(patches: Patches, empties: list[Path], tmp_path: Path) -> None:
    for name, threshold in (("a", 0.0), ("b", 0.0), ("c", 9.0)):
        with new_folder(tmp_path / name) as folder:
            found = write_injected(
                folder, empties, patches, (3, 7), settings(threshold=threshold), QUIET
            )
    lines = [json.loads(line) for line in (tmp_path / "a/tries.jsonl").read_text().splitlines()]
    assert Counter(line["kind"] for line in lines if line["placed"]) == {
        "false_positive": 4,
        "object": 2,
    }
    tries = Counter((line["image"], line["left"] is None) for line in lines)
    assert sorted(tries.values()) == [3, 15, 15]  # no place in the small image, five in the others
    for image in {line["image"] for line in lines if line["placed"]}:
        mine = [line for line in lines if line["image"] == image]
        for start in range(0, 15, 5):
            best = max(mine[start : start + 5], key=lambda line: line["mutual_information"])
            assert best["placed"]
    for name in ("tries.jsonl", "annotations.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for path in (tmp_path / "a/images").iterdir():
        assert path.read_bytes() == (tmp_path / "b/images" / path.name).read_bytes()
    assert found.refused == {"false_positives": 4, "objects": 2}
    assert found.unchanged == found.images == 3
    assert not (tmp_path / "c/sheet.png").exists()


def test_without_images_there_are_only_patches(patches: Patches, tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        write_injected(folder, [], patches, (3, 7), settings(), QUIET)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["patches"]


def test_images_of_which_none_can_be_decoded(patches: Patches, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with (
        pytest.raises(DataError, match="none of the 1 images can be decoded"),
        new_folder(tmp_path / "out") as folder,
    ):
        write_injected(folder, [tmp_path / "a.png"], patches, (3, 7), settings(), QUIET)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match="exists already and is not empty"), new_folder(tmp_path):
        raise AssertionError("never entered")
    with pytest.raises(UsageError, match="cannot be written"), new_folder(tmp_path / "a.txt/b"):
        raise AssertionError("never entered")
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "b.txt").write_text("b")
    assert (tmp_path / "empty" / "b.txt").is_file()
