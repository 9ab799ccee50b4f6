"""Patches and their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detcli.data.transforms.blending import ROOM_PX
from detcli.data.transforms.patches import INDEX, cut_patch, read_patches
from detcli.errors import DataError
from tests.data.transforms.augmenting import painted
from tests.data.transforms.cut_patches import patch_of
from tests.data.transforms.scenes import noise


@pytest.mark.parametrize("box", [[0, 0, 9, 7], [51, 30, 60, 60], [20, 20, 21, 60]])
def test_every_core_has_room(box: list[int]) -> None:
    """Also at the edge of the image, where the border is repeated."""
    scene = painted((60, 60), [box], [False])
    patch = patch_of(scene)
    height, width = patch.sample.size
    x1, y1, x2, y2 = patch.core
    assert min(x1, y1, width - x2, height - y2) >= ROOM_PX
    assert patch.sample.boxes[0].tolist() == [x1, y1, x2, y2]
    assert (patch.sample.image[0, y1:y2, x1:x2] == 255).all()


def test_a_hard_negative_shows_nothing_of_an_object() -> None:
    """Surroundings that reach into another box are left out, here into white paint."""
    scene = painted((60, 60), [[30, 10, 50, 30]], [False])
    patch = cut_patch(
        scene, torch.tensor([8.0, 10, 28, 30]), None, name="a.png", path="a.jpg", score=0.9
    )
    assert patch.sample.image.max() == 0
    assert not patch.is_object
    assert patch.core == (ROOM_PX, ROOM_PX, ROOM_PX + 20, ROOM_PX + 20)
    free = cut_patch(
        scene, torch.tensor([2.0, 40, 22, 60]), None, name="a.png", path="a.jpg", score=0.9
    )
    assert free.core[1] == ROOM_PX  # a quarter of the side


def test_patches_come_back_as_they_were_written(folder: Path) -> None:
    found = read_patches(str(folder))
    assert [patch.name for patch in found.negatives] == ["wrong_8.png", "wrong_12.png"]
    assert [patch.score for patch in found.negatives] == [0.7, 0.7]
    (thing,) = found.objects
    original = patch_of(painted((60, 60), [[20, 20, 34, 30]], [False]).changed(image=noise(60, 60)))
    assert torch.equal(thing.sample.image, original.sample.image)
    assert torch.equal(thing.sample.boxes, original.sample.boxes)
    assert (thing.core, thing.source, thing.score) == (original.core, "scene.jpg", None)
    assert thing.sample.labels.tolist() == [0]
    for patch in found.negatives:
        assert len(patch.sample.boxes) == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"core": [0, 0, 5, 5]}, "expected a core at least 5 pixels inside"),
        ({"core": [8, 8, 8, 12]}, "expected a core at least 5 pixels inside"),
        ({"category": "cow"}, "expected both box and category, or neither"),
        ({"category": "cow boy", "box": [6, 6, 9, 9]}, "category 'cow boy' is not a class name"),
        ({"file": "absent.png"}, "absent.png: cannot be read"),
        ({"core": "none"}, "Expected"),
    ],
)
def test_a_folder_that_was_changed_is_one_line(
    change: dict[str, Any], error: str, folder: Path
) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["patches"][0] |= change
    (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(DataError, match=error) as caught:
        read_patches(str(folder))
    assert len(str(caught.value).splitlines()) == 1
