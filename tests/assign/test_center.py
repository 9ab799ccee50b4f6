"""Heat maps and their radii against the plain loops of the two references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.assign.center import CenterAssigner, gaussian_radius
from detcli.types import Target

GRID, CANVAS = (24, 32), (96, 128)
MM = CenterAssigner("corrected", 0.3, whole_cells=False, shared_cells="last")
AUTHORS = CenterAssigner("cornernet", 0.7, whole_cells=True, shared_cells="all")

side = st.floats(0.5, 120.0)


def moved_iou(width: float, height: float, low: float, high: float) -> float:
    """IoU of a box with one whose first corner moved by low and second by high, both outward."""
    new_width, new_height = width + low + high, height + low + high
    common = (width + min(low, 0) + min(high, 0)) * (height + min(low, 0) + min(high, 0))
    return common / (width * height + new_width * new_height - common)


@given(side, side, st.sampled_from([0.3, 0.5, 0.7]))
@settings(max_examples=50, deadline=None)
def test_the_corrected_radius_keeps_the_overlap_and_is_the_largest(
    width: float, height: float, overlap: float
) -> None:
    sides = torch.tensor([[width, height]], dtype=torch.float64)
    (radius,) = gaussian_radius(sides, min_overlap=overlap, form="corrected").tolist()
    assert 0 < radius < min(width, height)
    cases = [(-radius, radius), (-radius, -radius), (radius, radius)]  # outward is positive
    worst = min(moved_iou(width, height, low, high) for low, high in cases)
    assert worst == pytest.approx(overlap, abs=1e-6)


@given(side, side)
@settings(max_examples=50, deadline=None)
def test_the_radius_of_cornernet(width: float, height: float) -> None:
    """Its three roots, with the larger sign and halved."""
    overlap, radii = 0.7, []
    for a, b, c in (
        (1, width + height, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (width + height), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (width + height), (overlap - 1) * width * height),
    ):
        radii.append((b + math.sqrt(b * b - 4 * a * c)) / 2)
    sides = torch.tensor([[width, height]], dtype=torch.float64)
    (got,) = gaussian_radius(sides, min_overlap=overlap, form="cornernet").tolist()
    assert got == pytest.approx(min(radii))


def target(boxes: list[list[float]], labels: list[int], ignore: list[list[float]] | None = None):
    return Target(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(ignore or []).reshape(-1, 4),
        CANVAS,
    )


def plain_heatmap(boxes: np.ndarray, labels: list[int], assigner: CenterAssigner) -> np.ndarray:
    """Object by object, cell by cell."""
    heatmap = np.zeros((3, *GRID))
    for (x1, y1, x2, y2), label in zip(boxes / 4, labels, strict=True):
        width, height = x2 - x1, y2 - y1
        if assigner.whole_cells:
            width, height = math.ceil(width), math.ceil(height)
        sides = torch.tensor([[width, height]])
        radius = int(gaussian_radius(sides, min_overlap=assigner.min_overlap, form=assigner.radius))
        column, row = int((x1 + x2) / 2), int((y1 + y2) / 2)
        sigma = (2 * radius + 1) / 6
        for y in range(max(0, row - radius), min(GRID[0], row + radius + 1)):
            for x in range(max(0, column - radius), min(GRID[1], column + radius + 1)):
                value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                heatmap[label, y, x] = max(heatmap[label, y, x], value)
    return heatmap


@pytest.mark.parametrize("assigner", [MM, AUTHORS], ids=["mmdetection", "authors"])
@pytest.mark.parametrize("seed", range(3))
def test_heatmaps_equal_a_plain_loop(assigner: CenterAssigner, seed: int) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 80, (12, 2))
    boxes = np.hstack([corner, np.minimum(corner + random.uniform(2, 60, (12, 2)), [128, 96])])
    boxes = boxes.astype(np.float32)
    labels = random.integers(0, 3, 12).tolist()
    found = assigner([target(boxes.tolist(), labels)], num_classes=3, grid=GRID, canvas=CANVAS)
    want = plain_heatmap(boxes, labels, assigner)
    np.testing.assert_allclose(found.heatmaps[0].numpy(), want, atol=1e-6)
    assert ((found.heatmaps[0].numpy() == 1) == (want == 1)).all()


def test_objects_that_share_a_cell() -> None:
    boxes = [[40.0, 40, 60, 60], [41.0, 41, 60, 60], [10.0, 10, 30, 50], [44.0, 44, 56, 56]]
    one = [target(boxes, [0, 0, 1, 2]), target([], [])]
    cell = 12 * 32 + 12  # row 12, column 12
    last = MM(one, num_classes=3, grid=GRID, canvas=CANVAS)
    assert last.cells.tolist() == [7 * 32 + 5, cell]
    torch.testing.assert_close(last.sizes, torch.tensor([[5.0, 10.0], [3.0, 3.0]]))
    torch.testing.assert_close(last.offsets, torch.tensor([[0.0, 0.5], [0.5, 0.5]]))
    assert (last.num_objects, last.num_peaks) == (2, 2)
    every = AUTHORS(one, num_classes=3, grid=GRID, canvas=CANVAS)
    assert every.cells.tolist() == [cell, cell, 7 * 32 + 5, cell]
    assert (every.num_objects, every.num_peaks) == (4, 3)  # peaks of class 0, 1 and 2


def test_rows_count_on_from_image_to_image() -> None:
    images = [target([], []), target([[0.0, 0, 8, 8]], [1])]
    found = MM(images, num_classes=3, grid=GRID, canvas=CANVAS)
    assert found.cells.tolist() == [24 * 32 + 33]
    assert found.heatmaps[1, 1, 1, 1] == 1
    assert not found.heatmaps[0].any()


def test_a_centre_on_the_border_has_the_last_cell() -> None:
    found = MM([target([[128.0, 96, 128, 96]], [0])], num_classes=1, grid=GRID, canvas=CANVAS)
    assert found.cells.tolist() == [24 * 32 - 1]
    assert found.offsets.tolist() == [[1.0, 1.0]]


def test_ignored_regions() -> None:
    (one,) = MM([target([], [], [[8, 4, 16, 12]])], num_classes=1, grid=GRID, canvas=CANVAS).ignored
    want = torch.zeros(GRID, dtype=torch.bool)
    want[1:3, 2:4] = True
    assert torch.equal(one, want)


def test_no_objects() -> None:
    found = MM([target([], [])], num_classes=2, grid=GRID, canvas=CANVAS)
    assert (len(found.cells), found.num_objects, found.heatmaps.sum()) == (0, 0, 0)
    assert (MM.min_peaks, AUTHORS.min_peaks) == (0.5, 1.0)
