"""The generated data set."""

from __future__ import annotations

import colorsys
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcli.data.formats.read import read_records
from detcli.data.formats.shapes import VARIANTS, make_scene, write_shapes
from detcli.data.formats.shapes_draw import CLASSES, Canvas
from detcli.data.images import read_image
from detcli.data.records import Records
from detcli.errors import DataError

BASE: dict[str, Any] = {
    "variant": "plain",
    "num_train": 6,
    "num_val": 3,
    "size": [96, 128],
    "seed": 0,
}


def read(root: Path, name: str, **changes: Any) -> Records:
    return read_records(
        format="shapes", root=str(root), split=None, name=name, shapes=BASE | changes
    )


def test_it_is_an_ordinary_coco_data_set(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    records = read(tmp_path, "train")
    folder = Path(write_shapes(str(tmp_path), **BASE))
    coco = COCO(str(folder / "annotations/train.json"))
    assert len(coco.getImgIds()) == len(records) == 6
    assert len(coco.getAnnIds()) == len(records.labels)
    assert records.class_names == ("circle", "square", "triangle", "cross")
    assert read_image(records.path(0)).shape == (96, 128, 3)
    assert len(read(tmp_path, "val")) == 3


def test_same_parameters_same_pictures(tmp_path: Path) -> None:
    one, two = (read(tmp_path / name, "train") for name in ("a", "b"))
    for i in range(len(one)):
        assert np.array_equal(read_image(one.path(i)), read_image(two.path(i)))
    assert np.array_equal(one.boxes_xywh, two.boxes_xywh)


def test_a_larger_set_begins_with_the_smaller(tmp_path: Path) -> None:
    small, large = read(tmp_path, "train"), read(tmp_path, "train", num_train=9)
    assert small.path(5) != large.path(5)
    assert np.array_equal(read_image(small.path(5)), read_image(large.path(5)))


def test_changed_parameters_never_reuse_stale_images(tmp_path: Path) -> None:
    changes = [{}, {"seed": 1}, {"size": [128, 96]}, {"variant": "small"}, {"num_val": 4}]
    folders = {write_shapes(str(tmp_path), **(BASE | change)) for change in changes}
    assert len(folders) == len(changes)
    again = Path(write_shapes(str(tmp_path), **BASE))
    parameters = json.loads((again / "parameters.json").read_text())
    assert {key: parameters[key] for key in BASE} == BASE


def test_it_is_written_once_and_all_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: write_shapes(str(tmp_path), **BASE), range(4)))
    assert len(folders) == 1
    assert os.listdir(tmp_path) == [Path(folders.pop()).name]  # nothing unfinished stays


@pytest.mark.parametrize(
    "change", [{"variant": "plane"}, {"size": [5, 5]}, {"size": [64]}, {"num_train": 0}]
)
def test_bad_parameters_are_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"data\.shapes"):
        write_shapes(str(tmp_path), **(BASE | change))


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_shapes(str(tmp_path / "file"), **BASE)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "background"])
def test_variants_are_what_they_say(variant: str) -> None:
    scenes = [make_scene(variant, (128, 128), np.random.default_rng([7, i])) for i in range(40)]
    counts = [len(scene.labels) for scene in scenes]
    boxes = np.array([box for scene in scenes for box in scene.boxes_xywh])
    side = np.median(np.sqrt(boxes[:, 2] * boxes[:, 3]))
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 128).all()
    if variant == "small":
        assert side < 16
    elif variant == "crowded":
        assert np.mean(counts) > 10
    else:
        assert side > 25
        assert max(counts) <= VARIANTS[variant].objects[1]
    if variant == "hard_negatives":
        assert counts.count(0) >= 6


def test_the_background_holds_nothing() -> None:
    """Smooth but for noise: no edge of a shape, whose contrast is at least 70."""
    for number in range(40):
        scene = make_scene("background", (128, 128), np.random.default_rng([7, number]))
        assert scene.boxes_xywh == []
        coarse = scene.pixels.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        steps = np.linalg.norm(np.diff(coarse, axis=1), axis=2)
        assert np.quantile(steps, 0.99) < 70


@pytest.mark.parametrize("name", CLASSES)
def test_boxes_fit_what_is_drawn(name: str) -> None:
    rng = np.random.default_rng(5)
    canvas = Canvas(np.full((128, 128, 3), 127.0), min_visible=0.5)
    canvas.place(0, CLASSES[name]() * 30 + rng.uniform(40, 88, 2), rng)
    painted = np.abs(canvas.pixels - 127.0).max(axis=2)
    rows, columns = np.nonzero(painted > 0.1 * painted.max())
    left, top, width, height = canvas.objects[0][1]
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.allclose(drawn, (left, top, left + width, top + height), atol=1.01)
    assert canvas.objects[0][2] <= width * height


@pytest.mark.parametrize("class_hues", [True, False])
def test_classes_keep_to_their_hues_where_they_should(class_hues: bool) -> None:
    rng = np.random.default_rng(5)
    square = np.array([(20.0, 20.0), (40.0, 20.0), (40.0, 40.0), (20.0, 40.0)])
    offsets = []
    for label in list(range(len(CLASSES))) * 10:
        canvas = Canvas(np.full((64, 64, 3), 127.0), min_visible=0.5, class_hues=class_hues)
        assert canvas.place(label, square, rng)
        hue = colorsys.rgb_to_hsv(*np.clip(canvas.pixels[30, 30] / 255, 0, 1))[0]
        offsets.append(abs((hue - label / len(CLASSES) + 0.5) % 1 - 0.5))
    assert (max(offsets) < 0.5 / len(CLASSES)) == class_hues
