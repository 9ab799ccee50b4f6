"""Images cut into windows: nothing is missed, boxes land where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcli.data.formats.plain_images import read_images
from detcli.data.transforms import Pipeline
from detcli.data.windows import WindowDataset, cut_into_windows, join_windows, starts
from detcli.types import Detections


@given(length=st.integers(1, 3000), side=st.integers(32, 900), overlap=st.floats(0, 0.9))
def test_windows_cover_the_length_with_the_overlap_asked_for(length, side, overlap):
    found = starts(length, side, overlap)
    assert found[0] == 0
    assert found[-1] == max(0, length - side)
    steps = np.diff(found)
    # Spread evenly and then rounded to whole pixels.
    assert (steps <= side * (1 - overlap) + 1).all()
    assert (steps > 0).all()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(640, [0]), (500, [0]), (641, [0, 1]), (1152, [0, 512]), (1153, [0, 256, 513])],
)
def test_as_few_windows_as_the_overlap_allows(length, expected):
    assert starts(length, 640, 0.2) == expected


@pytest.fixture
def records(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(100, 150), (40, 50), (130, 64)]):
        paths.append(str(tmp_path / f"{index}.png"))
        cv2.imwrite(paths[-1], rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return read_images(paths, ["car"], [7])


def test_windows_show_the_pixels_that_they_name(records):
    windows = cut_into_windows(records, 64, 0.25)
    assert windows.offsets.tolist() == [0, 6, 7, 10]
    assert windows.corners.shape == (10, 4)
    dataset = WindowDataset(records, windows, Pipeline([]))
    assert len(dataset) == 10
    whole = {image: super(WindowDataset, dataset).load(image).image for image in range(3)}
    for index in range(len(dataset)):
        sample = dataset[0, index]
        left, top, right, bottom = windows.corners[index]
        expected = whole[int(windows.image[index])][:, top:bottom, left:right]
        assert (sample.image == expected).all()
        assert sample.size == windows.size(index)
        assert len(sample.boxes) == len(sample.labels) == len(sample.ignore) == 0


def test_boxes_return_to_their_image_and_pieces_are_dropped(records):
    windows = cut_into_windows(records, 64, 0.25)
    # One box per window: inside of it, at its left side, or at its lower right corner.
    boxes = np.array([[10.0, 10, 20, 20], [0, 10, 20, 20], [30, 30, 34, 34]])
    chosen = np.arange(len(windows)) % 3
    found = Detections(
        offsets=np.arange(len(windows) + 1),
        boxes_xywh=boxes[chosen],
        scores=np.linspace(1, 0.1, len(windows)),
        labels=np.zeros(len(windows), np.int64),
        extra={"iou": np.arange(float(len(windows)))},
    )
    joined, dropped = join_windows(found, windows)
    kept = joined.extra["iou"].astype(int)
    left_cut, right_cut, lower_cut = windows.cut[:, 0], windows.cut[:, 2], windows.cut[:, 3]
    piece = ((chosen == 1) & left_cut) | ((chosen == 2) & (right_cut | lower_cut))
    assert kept.tolist() == np.flatnonzero(~piece).tolist()
    assert dropped == piece.sum() > 0
    shift = windows.corners[kept, :2]
    np.testing.assert_array_equal(joined.boxes_xywh[:, :2], boxes[chosen][kept, :2] + shift)
    np.testing.assert_array_equal(joined.boxes_xywh[:, 2:], boxes[chosen][kept, 2:])
    np.testing.assert_array_equal(joined.image_index, windows.image[kept])
    assert joined.num_images == 3


def test_a_small_image_is_one_window_without_cuts(records):
    windows = cut_into_windows(records, 200, 0.2)
    assert windows.image.tolist() == [0, 1, 2]
    assert not windows.cut.any()
    assert [windows.size(index) for index in range(3)] == [(100, 150), (40, 50), (130, 64)]
