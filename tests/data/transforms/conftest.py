"""A folder of patches."""

import dataclasses
from pathlib import Path

import pytest

from detcli.data.transforms.patches import Patches, write_patches
from tests.data.transforms.augmenting import painted
from tests.data.transforms.cut_patches import negative, patch_of
from tests.data.transforms.scenes import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two hard negatives and an object of class cat, in a folder."""
    scene = painted((60, 60), [[20, 20, 34, 30]], [False])
    scene = scene.changed(image=noise(60, 60))
    wrong = [dataclasses.replace(negative(side), name=f"wrong_{side}.png") for side in (8, 12)]
    patches = Patches(tuple(wrong), (patch_of(scene),), ("cat", "dog", "cow"))
    # The fixture's data set has its classes in ascending order of id: dog, cat, cow.
    patches = dataclasses.replace(patches, class_names=("dog", "cat", "cow"))
    write_patches(tmp_path / "patches", patches)
    return tmp_path / "patches"
