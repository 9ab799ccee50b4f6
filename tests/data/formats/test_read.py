"""What every reader needs before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from detcli.data.formats.read import READERS, read_records
from detcli.errors import DataError
from detcli.recipe.sections.data import SPLIT_KEYS, Data
from tests.data.reading import COCO, fails


def test_recipes_know_every_format_and_its_keys() -> None:
    assert {name: reader.keys for name, reader in READERS.items()} == SPLIT_KEYS
    assert get_args(Data.model_fields["format"].annotation) == tuple(READERS)


@pytest.mark.parametrize(
    ("format", "split", "said"),
    [
        ("coco", {"images": "images"}, "needs annotations"),
        ("yolo", None, "needs images and labels"),
        ("pickle", COCO, "expected coco, voc, yolo or shapes"),
        ("shapes", None, "train and val"),
    ],
)
def test_read_records_says_what_it_needs(
    tmp_path: Path, format: str, split: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_records(format=format, root=str(tmp_path), split=split, name="test")


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_missing_roots_are_one_line(tmp_path: Path, format: str) -> None:
    assert str(tmp_path / "nowhere") in fails(tmp_path / "nowhere", format)
