"""Predictions files: exact round trips, and one clear line for everything that is wrong."""

from __future__ import annotations

import gc
import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools.coco import COCO

from detcli.errors import DataError, OutputError, UsageError
from detcli.predictions import (
    PredictionsMeta,
    check_not_thresholded,
    files,
    read_meta,
    read_predictions,
    write_predictions,
)
from detcli.types import Detections
from tests.evaluation.oracle import detections_of, ground_truth_of

META = PredictionsMeta(
    kind="detections",
    ground_truth="a/b.json",
    model="atss",
    recipe="atss_r50",
    score_threshold=0.05,
)
GOOD = {"image_id": 9, "category_id": 83, "bbox": [1, 2.5, 3, 4], "score": 0.5}


def truth(num_images=3):
    """Image ids 9, 2, 30, ...; categories 90 and 83."""
    image_ids = [9, 2, *range(30, 30 + num_images - 2)]
    return ground_truth_of(image_ids, [], [], [], area=[], crowd=[], difficult=[], num_classes=2)


def assert_same(a: Detections, b: Detections) -> None:
    for name in ("offsets", "boxes_xywh", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.extra.keys() == b.extra.keys()
    for name in a.extra:
        np.testing.assert_array_equal(a.extra[name], b.extra[name])


finite = st.floats(allow_nan=False, allow_infinity=False)
length = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw):
    counts = draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    n = sum(counts)
    corners = draw(hnp.arrays(np.float64, (n, 2), elements=finite))
    lengths = draw(hnp.arrays(np.float64, (n, 2), elements=length))
    widths = draw(st.sampled_from([{}, {"iou": (n,)}, {"sigma": (n, 4), "density": (n,)}]))
    return Detections(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=np.concatenate([corners, lengths], 1),
        scores=draw(hnp.arrays(np.float64, n, elements=finite)),
        labels=draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1))),
        extra={
            name: draw(hnp.arrays(np.float64, s, elements=finite)) for name, s in widths.items()
        },
    )


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@settings(max_examples=60, deadline=None)
@given(table=tables())
def test_round_trip_is_exact(suffix, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / f"predictions{suffix}"
    write_predictions(path, table, truth(), META)
    back = read_predictions(path, truth())
    if not len(table.scores):  # an empty list says nothing about columns
        assert len(back.scores) == 0
    else:
        assert_same(back, table)


def test_round_trip_over_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("detcli.predictions.formats._CHUNK", 7)
    rng = np.random.default_rng(0)
    table = detections_of(
        3,
        np.sort(rng.integers(0, 3, 50)),
        rng.random((50, 4)),
        rng.integers(0, 2, 50),
        rng.random(50),
    )
    write_predictions(tmp_path / "p.json", table, truth(), META)
    assert_same(read_predictions(tmp_path / "p.json", truth()), table)


def test_the_file_is_what_other_tools_expect(tmp_path):
    table = detections_of(3, [0, 2], [[1, 2, 3, 4], [5, 6, 7, 8]], [1, 0], [0.5, 0.25])
    write_predictions(tmp_path / "p.json", table, truth(), META)
    assert json.loads((tmp_path / "p.json").read_text()) == [
        {"image_id": 9, "category_id": 83, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 30, "category_id": 90, "bbox": [5, 6, 7, 8], "score": 0.25},
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 9}, {"id": 2}, {"id": 30}],
        "categories": [],
        "annotations": [],
    }
    coco.createIndex()
    assert len(coco.loadRes(str(tmp_path / "p.json")).anns) == 2


def test_entries_in_any_order_are_grouped_by_image(tmp_path):
    entries = [GOOD | {"image_id": i, "score": s} for i, s in [(2, 0.1), (9, 0.2), (2, 0.3)]]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    table = read_predictions(tmp_path / "p.json", truth())
    assert table.offsets.tolist() == [0, 1, 3, 3]
    assert table.scores.tolist() == [0.2, 0.1, 0.3]


@pytest.mark.parametrize("name", ["p.json.gz", "p.npz.gz", "p.json"])
def test_gzip_is_read_whatever_the_name(name, tmp_path):
    table = detections_of(3, [0, 2], [[1, 2, 3, 4], [5, 6, 7, 8]], [1, 0], [0.5, 0.25])
    plain = tmp_path / name.removesuffix(".gz")
    write_predictions(plain, table, truth(), META)
    packed = gzip.compress(plain.read_bytes())
    plain.unlink()
    (tmp_path / name).write_bytes(packed)
    assert_same(read_predictions(tmp_path / name, truth()), table)
    assert read_meta(tmp_path / name).model == "atss"


def test_reading_leaves_garbage_collection_as_it_was(tmp_path):
    (tmp_path / "p.json").write_text("[]")
    read_predictions(tmp_path / "p.json", truth())
    assert gc.isenabled()
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(DataError):
        read_predictions(tmp_path / "p.json", truth())
    assert gc.isenabled()


def test_unknown_keys_are_ignored_and_an_empty_list_is_fine(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([GOOD | {"id": 4, "segmentation": {"a": []}}]))
    assert len(read_predictions(tmp_path / "p.json", truth()).scores) == 1
    (tmp_path / "p.json").write_text("[]")
    assert read_predictions(tmp_path / "p.json", truth()).num_images == 3


BAD_JSON = {
    "unknown image": (
        [GOOD, GOOD | {"image_id": 10}],
        r"entry 1: image_id 10 is not in the ground",
    ),
    "unknown category": ([GOOD | {"category_id": 1}], "entry 0: category_id 1 is not in"),
    "how many": ([GOOD | {"image_id": 10}] * 3, "so in 3 of 3 entries"),
    "NaN score": ([GOOD, GOOD, GOOD | {"score": float("nan")}], "entry 2: score nan is not finite"),
    "infinite box": ([GOOD | {"bbox": [0, float("inf"), 1, 1]}], r"entry 0: bbox \[0.0, inf"),
    "missing field": ([GOOD, {"image_id": 9}], "entry 1: .*missing required field `category_id`"),
    "text score": ([GOOD | {"score": "0.5"}], "entry 0, key 'score': Expected `float`, got `str`"),
    "true score": ([GOOD | {"score": True}], "entry 0, key 'score'"),
    "null score": ([GOOD | {"score": None}], "entry 0, key 'score'"),
    "three numbers": ([GOOD | {"bbox": [1, 2, 3]}], "entry 0, key 'bbox'"),
    "text in box": ([GOOD | {"bbox": [1, 2, 3, "4"]}], r"entry 0, key 'bbox\[...\]|bbox\[3\]'"),
    "text id": ([GOOD | {"image_id": "9"}], "entry 0, key 'image_id'"),
    "fractional id": ([GOOD | {"image_id": 9.5}], "entry 0, key 'image_id'"),
    "huge id": ([GOOD | {"image_id": 10**30}], "entry 0, key 'image_id'"),
    "negative size": ([GOOD, GOOD | {"bbox": [1, 2, -3, 4]}], "entry 1: bbox .* negative size"),
    "a number": ([GOOD, 5], "entry 1: Expected `object`, got `int`"),
    "a dict": ({"annotations": [GOOD]}, "not a list of COCO results: Expected `array`"),
    "half a column": ([GOOD | {"iou": 0.5}, GOOD], "entry 1 has no 'iou'"),
    "bad sigma": ([GOOD | {"sigma": [1, 2]}], "entry 0, key 'sigma'"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_entries_are_named(case, tmp_path):
    content, message = BAD_JSON[case]
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_predictions(tmp_path / "p.json", truth())
    assert str(tmp_path / "p.json") in str(error.value)
    assert "\n" not in str(error.value)


GOOD_BYTES = json.dumps([GOOD] * 3).encode()
BAD_BYTES = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n", "the file is empty"),
    "truncated": (GOOD_BYTES[:-30], "not complete, valid JSON"),
    "truncated text": (b'[{"image_id": 9, "categ', "not complete, valid JSON"),
    "overflow": (
        GOOD_BYTES.replace(b"0.5", b"1e999", 1),
        "entry 0, key 'score': Number out of range",
    ),
    "deep": (b"[" * 200_000, "p.json"),
    "not UTF-8": (b'[{"image_id\xff": 9}]', "entry 0"),
    "half a gzip file": (gzip.compress(GOOD_BYTES)[:-12], "not a complete gzip file"),
    "damaged gzip": (gzip.compress(GOOD_BYTES)[:10] + b"xxxxxx", "not a complete gzip file"),
    "two documents": (GOOD_BYTES + GOOD_BYTES, "not complete, valid JSON"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_damaged_json_is_one_line(case, tmp_path):
    content, message = BAD_BYTES[case]
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_predictions(tmp_path / "p.json", truth())
    assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_file_gives_a_table_or_a_data_error(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    suffix = data.draw(st.sampled_from([".json", ".npz"]))
    path = folder / f"p{suffix}"
    table = detections_of(3, [0, 2], [[1, 2, 3, 4], [5, 6, 7, 8]], [1, 0], [0.5, 0.25])
    write_predictions(path, table, truth(), META)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 20, len(content))))
        content[start:stop] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    try:
        assert isinstance(read_predictions(path, truth()), Detections)
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def npz(**changes):
    good = {
        "image_id": np.array([9]),
        "category_id": np.array([83]),
        "bbox": np.ones((1, 4)),
        "score": np.array([0.5]),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (npz(score=None), "array 'score' is missing"),
        (npz(bbox=np.ones((2, 4))), r"array 'bbox': expected floating \(1, 4\)"),
        (npz(score=np.array(0.5)), "array"),
        (npz(image_id=np.array([9.0])), "array 'image_id': expected integer"),
        (npz(score=np.array(["a"])), "array 'score'"),
        (npz(score=np.array([{}], dtype=object)), "not a complete .npz"),
        (npz(iou=np.ones(3)), "array 'iou'"),
        (npz(score=np.array([np.nan])), "entry 0: score nan"),
        (npz(image_id=np.array([8])), "entry 0: image_id 8"),
    ],
)
def test_bad_npz_arrays_are_named(arrays, message, tmp_path):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "p.npz", truth())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.json: cannot be read: No such file"):
        read_predictions(tmp_path / "missing.json", truth())
    with pytest.raises(DataError, match=r"read from \.json or \.npz \(also \.gz\), not '\.csv'"):
        read_predictions(tmp_path / "p.csv", truth())
    np.save(tmp_path / "array.npy", np.ones(3))
    os.rename(tmp_path / "array.npy", tmp_path / "array.npz")
    with pytest.raises(DataError, match=r"not a complete \.npz"):
        read_predictions(tmp_path / "array.npz", truth())
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "folder.json", truth())


def test_writing_refuses_what_could_not_be_read(tmp_path):
    table = detections_of(3, [0], [[1, 2, 3, 4]], [1], [np.nan])
    with pytest.raises(ValueError, match="'score' holds values that are not finite"):
        write_predictions(tmp_path / "p.json", table, truth(), META)
    with pytest.raises(UsageError, match=r"'\.txt'"):
        write_predictions(tmp_path / "p.txt", table, truth(), META)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    table = detections_of(3, [0], [[1, 2, 3, 4]], [1], [0.5])
    write_predictions(tmp_path / "p.json", table, truth(), META)
    before = sorted(path.read_bytes() for path in tmp_path.iterdir())

    def full_disk(file, columns):
        file.write(b"[")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(files._WRITERS, ".json", full_disk)
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        write_predictions(tmp_path / "p.json", table, truth(), META)
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == before


def test_meta_says_what_the_file_does_not(tmp_path):
    table = detections_of(3, [], [], [], [])
    write_predictions(tmp_path / "runs" / "p.json", table, truth(), META)
    meta = read_meta(tmp_path / "runs" / "p.json")
    assert meta is not None
    assert (meta.kind, meta.ground_truth, meta.model) == ("detections", "a/b.json", "atss")
    assert meta.image_ids == (9, 2, 30)
    assert meta.category_ids == (90, 83)
    assert meta.class_names == ("class 0", "class 1")
    assert read_meta(tmp_path / "other.json") is None
    (tmp_path / "bad.meta.json").write_text('{"kind": "boxes"}')
    with pytest.raises(DataError, match=r"bad\.meta\.json: not a description"):
        read_meta(tmp_path / "bad.json")


def test_thresholded_predictions_are_not_called_ap():
    """PEERS 14: mAP that depends on the confidence threshold."""
    cut = PredictionsMeta(kind="detections", score_threshold=0.25)
    with pytest.raises(DataError, match=r"p\.json: .* 0\.25.* --allow-threshold"):
        check_not_thresholded("p.json", cut)
    check_not_thresholded("p.json", cut, limit=0.3)
    check_not_thresholded("p.json", META)
    check_not_thresholded("p.json", PredictionsMeta(kind="detections"))
    check_not_thresholded("p.json", None)
