"""Spoiled annotation files: never anything but a DataError of one line that says where."""

from __future__ import annotations

import copy
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detcli.data.formats.coco import read_coco
from detcli.data.formats.voc import parse_voc, read_voc
from detcli.data.formats.yolo import parse_row, read_yolo
from detcli.errors import DataError
from tests.data.build import coco_content, voc_xml, write_coco, write_voc, write_yolo

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**62, max_value=2**200),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e308, -1e308, 1e999, -0.0, "", "nan", "\ud800", "a\nb", "\0", [], {}, [[]]]),
    st.text(max_size=5),
)


def loads_or_says_where(call: Any, where: str) -> None:
    """The call works, or raises a DataError of one line that names the place."""
    try:
        call()
    except DataError as error:
        message = str(error)
        assert message.isprintable()  # implies one line
        assert where in message
        assert len(message) < 4000


def spots(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON tree."""
    found = [path] if path else []
    children = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, child in children:
        found += spots(child, (*path, key))
    return found


def spoil(tree: Any, path: tuple[Any, ...], value: Any, how: str) -> None:
    for key in path[:-1]:
        tree = tree[key]
    if how == "remove":
        del tree[path[-1]]
    else:
        tree[path[-1]] = value


@pytest.fixture(scope="module")
def coco_root() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder))
        yield Path(folder)


@SETTINGS
@given(data=st.data())
def test_spoiled_coco_values_load_or_fail_in_one_line(coco_root: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(coco_content())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(spots(content)))
        spoil(content, path, data.draw(ODD), data.draw(st.sampled_from(["set", "remove"])))
        if not spots(content):
            break
    (coco_root / "bad.json").write_text(json.dumps(content))
    for on_error in ("fail", "skip"):
        split = {"annotations": "bad.json", "images": "images"}
        read = partial(read_coco, str(coco_root), split, on_error=on_error)
        loads_or_says_where(read, "bad.json")


@SETTINGS
@given(data=st.data())
def test_spoiled_coco_bytes_load_or_fail_in_one_line(coco_root: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(coco_content()).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (coco_root / "bad.json").write_bytes(text[: data.draw(st.integers(0, len(text)))])
    split = {"annotations": "bad.json", "images": "images"}
    loads_or_says_where(lambda: read_coco(str(coco_root), split), "bad.json")


def test_coco_nested_too_deeply_fails_in_one_line(coco_root: Path) -> None:
    (coco_root / "bad.json").write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"bad\.json"):
        read_coco(str(coco_root), {"annotations": "bad.json", "images": "images"})


@pytest.fixture(scope="module")
def voc_root() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), {"a": "", "b": voc_xml([("dog", (1, 1, 5, 5), 0)])})
        yield Path(folder)


@SETTINGS
@given(corners=st.tuples(ODD, ODD, ODD, ODD), difficult=ODD, size=st.tuples(ODD, ODD))
def test_spoiled_voc_values_load_or_fail_in_one_line(
    voc_root: Path, corners: Any, difficult: Any, size: Any
) -> None:
    text = voc_xml([("dog", corners, difficult)], size=size)
    (voc_root / "Annotations/a.xml").write_bytes(text.encode("utf-8", "surrogatepass"))
    for on_error in ("fail", "skip"):
        read = partial(read_voc, str(voc_root), {"split": "train"}, on_error=on_error)
        loads_or_says_where(read, "a")


@SETTINGS
@given(data=st.data())
def test_spoiled_voc_bytes_load_or_fail_in_one_line(data: st.DataObject) -> None:
    text = bytearray(voc_xml([("dog", (1, 1, 5, 5), 0), ("cat", (3, 3, 9, 9), 1)]).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    loads_or_says_where(lambda: parse_voc(bytes(text[: data.draw(st.integers(0, len(text)))])), "")


@SETTINGS
@given(text=st.binary(max_size=60))
def test_random_voc_bytes_load_or_fail_in_one_line(text: bytes) -> None:
    loads_or_says_where(lambda: parse_voc(text), "")


@SETTINGS
@given(
    line=st.one_of(
        st.text(max_size=40),
        st.lists(ODD, min_size=4, max_size=6).map(
            lambda words: " ".join(str(word) for word in words)
        ),
    )
)
def test_odd_yolo_rows_load_or_fail_in_one_line(line: str) -> None:
    loads_or_says_where(lambda: parse_row(line, 3), "expected")


@pytest.fixture(scope="module")
def yolo_root() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_yolo(Path(folder), {"a": ""})
        yield Path(folder)


@SETTINGS
@given(
    label=st.binary(max_size=60),
    classes=st.binary(max_size=30),
    suffix=st.sampled_from(["txt", "yaml"]),
)
def test_random_yolo_bytes_load_or_fail_in_one_line(
    yolo_root: Path, label: bytes, classes: bytes, suffix: str
) -> None:
    (yolo_root / "labels/train/a.txt").write_bytes(label)
    (yolo_root / f"names.{suffix}").write_bytes(b"names: " * (suffix == "yaml") + classes)
    split = {"images": "images/train", "labels": "labels/train"}
    call = lambda: read_yolo(str(yolo_root), split, class_file=f"names.{suffix}")  # noqa: E731
    loads_or_says_where(call, str(yolo_root))
