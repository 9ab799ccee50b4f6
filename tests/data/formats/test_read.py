"""What every reader needs before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from detcli.data.formats.read import READERS, Reader, count_images, read_records
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


def test_a_format_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reader(("a", "b"), lambda source: source, lambda *_: 3, optional=("b",))  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(READERS, "mine", read)
    split = {"a": "x"}
    found: Any = read_records(format="mine", root="r", split=split, name="val", on_error="skip")
    assert (found.root, found.split, found.options["on_error"]) == ("r", split, "skip")
    assert count_images(format="mine", root="r", split=split) == 3
    with pytest.raises(DataError, match="format mine needs a, got"):
        read_records(format="mine", root="r", split={"b": "x"}, name="val")


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_images_that_are_not_here_are_not_counted(tmp_path: Path, format: str) -> None:
    split = dict.fromkeys(READERS[format].keys, "nowhere")
    assert count_images(format=format, root=str(tmp_path), split=split) is None
