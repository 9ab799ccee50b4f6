"""A folder of patches, and a data set."""

import dataclasses
from pathlib import Path

import pytest

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from detcli.data.transforms.patches import Patches, write_patches
from tests.data.build import coco_content, write_coco
from tests.data.transforms.augmenting import painted
from tests.data.transforms.cut_patches import negative, patch_of
from tests.data.transforms.scenes import noise


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Seven images of 40 x 60, one box of 20 x 10 in each but the last; in two it is 10 x 10."""
    folder = tmp_path_factory.mktemp("coco")
    content = coco_content(7)
    content["annotations"] = content["annotations"][:-1]  # no crowd region in the way
    for entry in content["annotations"][:2]:
        entry["bbox"][2] = 10
    write_coco(folder, content, num_images=7)
    split = {"annotations": "train.json", "images": "images"}
    return read_records(format="coco", root=str(folder), split=split, name="train")


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
