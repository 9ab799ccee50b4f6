import numpy as np
import pytest

from detcli.data.files import read_images
from detcli.engine.input_shapes import has_fixed_shape, input_shapes, largest_shape
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


@pytest.mark.parametrize(
    "data",
    [
        {"resize": {"short": [64, 96], "long": 128}},
        {"augment": {"iou_crop": {"prob": 0.5}}},
        {"augment": {"zoom_out": {"prob": 0.5}}},
    ],
    ids=["multi-scale", "crop", "zoom-out"],
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
