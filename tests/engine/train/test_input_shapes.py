from dataclasses import replace

import numpy as np
import pytest

from detcli.data.formats.plain_images import read_images
from detcli.engine.train.input_shapes import (
    has_fixed_shape,
    input_shapes,
    largest_shape,
    most_boxes,
)
from detcli.recipe import recipe_from_dict
from tests.data.build import write_image
from tests.recipes import TINY, merged


def records(folder, *sizes):
    """Images of these (height, width)."""
    paths = []
    for index, (height, width) in enumerate(sizes):
        path = folder / f"{index}.png"
        write_image(path, (height, width))
        paths.append(str(path))
    return read_images(paths, ["a"], [1])


def recipe(**data):
    return recipe_from_dict(merged(TINY, {"data": data}), "test")


def test_one_size_of_image_and_one_short_side_is_one_shape(tmp_path):
    wanted = recipe(resize={"short": [64], "long": 128})
    table = records(tmp_path, (48, 80), (48, 80))
    assert input_shapes(wanted, table) == {(64, 128)}  # 64 x 107, padded to 32s
    assert has_fixed_shape(wanted, table)


def test_squares_are_one_shape_whatever_the_images_and_crops(tmp_path):
    sides = {"resize": {"short": [75], "long": 1333, "keep_aspect": False}, "pad_multiple": 1}
    wanted = recipe(**sides, augment={"iou_crop": {"prob": 0.5}})
    table = records(tmp_path, (48, 80), (200, 60))
    assert input_shapes(wanted, table) == {(75, 75)}
    assert has_fixed_shape(wanted, table)


@pytest.mark.parametrize(
    "data",
    [
        {"resize": {"short": [64, 96], "long": 128}},
        {"augment": {"iou_crop": {"prob": 0.5}}},
        {"augment": {"zoom_out": {"prob": 0.5}}},
        {"augment": {"crop": {"prob": 0.5}}},
        {"augment": {"chips": {"sides_px": [64]}}},
    ],
    ids=["multi-scale", "iou-crop", "zoom-out", "crop", "chips"],
)
def test_shapes_that_change(tmp_path, data):
    assert not has_fixed_shape(recipe(**data), records(tmp_path, (48, 80)))


def test_a_range_of_short_sides(tmp_path):
    wanted = recipe(resize={"short": [64, 129], "long": 400, "pick": "range"})
    assert {h for h, _ in input_shapes(wanted, records(tmp_path, (64, 64)))} == {64, 96, 128, 160}


def test_the_largest_batch_takes_orientation_into_account(tmp_path):
    table = records(tmp_path, (64, 128), (128, 64))
    resize = {"short": [64], "long": 128}
    assert np.prod(largest_shape(recipe(resize=resize), table)) == 64 * 128
    mixed = recipe(resize=resize, group_by_aspect=False)
    assert largest_shape(mixed, table) == (128, 128)


@pytest.mark.parametrize(
    ("augment", "most"),
    [
        ({}, 7),
        ({"mosaic": {"prob": 0.5}}, 28),
        ({"mosaic": {"prob": 0.5}, "mixup": {"prob": 0.5}}, 35),
        ({"copy_paste": {"copies": 3}}, 10),
        ({"poisson": {"objects": 2}}, 9),
        ({"duck_injection": {"patches": "x", "objects": 1}}, 8),
    ],
    ids=["plain", "mosaic", "mosaic and mixup", "copies", "poisson", "duck"],
)
def test_the_most_boxes_of_an_image(tmp_path, augment, most):
    table = records(tmp_path, (64, 64), (64, 64))
    boxes = np.tile([[1.0, 1, 9, 9]], (9, 1))
    table = replace(
        table,
        offsets=np.array([0, 2, 9]),
        boxes_xywh=boxes,
        labels=np.zeros(9, np.int64),
        area=np.full(9, 81.0),
        crowd=np.zeros(9, bool),
        difficult=np.zeros(9, bool),
    )
    assert most_boxes(recipe(augment=augment), table) == most
