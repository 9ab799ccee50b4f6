"""Wrong detections as patches, and patches into images without objects."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcli.data.formats.read import read_records
from detcli.data.images import read_image
from detcli.data.records import Records
from detcli.data.transforms.patches import Patches, read_patches
from detcli.engine.inject.hard_negatives import collect, wrong_detections
from detcli.engine.inject.inject import Settings, new_folder, to_json, write_injected
from detcli.engine.run.log import RunLog
from detcli.errors import DataError, UsageError
from detcli.types import Detections
from tests.data.build import write_image

SPLIT = {"annotations": "train.json", "images": "images"}
QUIET = RunLog(quiet=True)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two images of 120 x 160: one with a cat, a dog at the border and a crowd, one empty."""
    images = [
        {"id": number, "file_name": f"{number}.jpg", "height": 120, "width": 160}
        for number in (1, 2)
    ]
    boxes = [(7, [20, 20, 30, 20], 0), (3, [130, 90, 30, 30], 0), (7, [10, 80, 40, 30], 1)]
    annotations = [
        {"image_id": 1, "category_id": category, "bbox": box, "iscrowd": crowd}
        for category, box, crowd in boxes
    ]
    categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for number in (1, 2):
        write_image(tmp_path / "images" / f"{number}.jpg", (120, 160), seed=number)
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_records(format="coco", root=str(tmp_path), split=SPLIT, name="train")


def detections_of(first: list[tuple], second: list[tuple]) -> Detections:
    """Of both images: (score, label, left, top, width, height)."""
    rows = np.array([*first, *second], np.float64).reshape(-1, 6)
    return Detections(
        offsets=np.array([0, len(first), len(rows)], np.int64),
        boxes_xywh=rows[:, 2:],
        scores=rows[:, 0],
        labels=rows[:, 1].astype(np.int64),
    )


def test_only_what_is_wrong_and_away_from_every_object_is_a_hard_negative(
    records: Records,
) -> None:
    detections = detections_of(
        [
            (0.9, 1, 20, 20, 30, 20),  # the cat
            (0.8, 1, 22, 22, 30, 20),  # the cat again
            (0.7, 0, 20, 20, 30, 20),  # the cat, taken for a dog
            (0.6, 1, 30, 85, 30, 20),  # in the crowd
            (0.55, 1, 100, 20, 30, 20),  # wrong
            (0.5, 0, 102, 21, 30, 20),  # the same place as another class
            (0.45, 1, 130, 30, 30, 20),  # wrong, but cut by the border
            (0.2, 1, 60, 60, 20, 20),  # wrong, but below the score
        ],
        [(0.95, 0, 50, 50, 20, 30), (0.4, 0, 100, 20, 3, 30)],  # wrong, and too narrow
    )
    found = wrong_detections(records, detections, 0.3)
    assert [(cut.image, cut.score, cut.label) for cut in found] == [
        (1, 0.95, None),
        (0, 0.55, None),
    ]
    assert found[1].box.tolist() == [100, 20, 130, 40]
    assert [cut.score for cut in wrong_detections(records, detections, 0.0)] == [0.95, 0.55, 0.2]


def test_patches_show_what_they_were_cut_out_of(records: Records) -> None:
    detections = detections_of([], [(0.95, 0, 50, 50, 20, 30), (0.6, 0, 100, 20, 20, 30)])
    patches = collect(records, detections, QUIET, min_score=0.3, max_patches=10, seed=0)
    assert [patch.score for patch in patches.negatives] == [0.95, 0.6]
    (cat,) = patches.objects  # the dog touches the border
    assert patches.class_names == ("dog", "cat")
    assert cat.sample.labels.tolist() == [1]
    assert cat.source == records.path(0)
    for patch, index, (left, top) in (
        (patches.negatives[0], 1, (50, 50)),
        (cat, 0, (20, 20)),
    ):
        x1, y1, x2, y2 = patch.core
        pixels = read_image(records.path(index))[top : top + y2 - y1, left : left + x2 - x1]
        core = patch.sample.image.permute(1, 2, 0).numpy()[y1:y2, x1:x2]
        assert np.array_equal(core, pixels)
    few = collect(records, detections, QUIET, min_score=0.3, max_patches=1, seed=0)
    assert [patch.score for patch in few.negatives] == [0.95]


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
