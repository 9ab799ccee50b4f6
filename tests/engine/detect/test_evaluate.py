import numpy as np
import pytest
import torch

from detcli.engine.detect.evaluate import to_original
from detcli.types import Candidates


def candidates(count, extra=None):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 1 + 40 * torch.rand(count, 2, generator=generator)], 1)
    return Candidates(
        boxes,
        torch.rand(count, generator=generator),
        torch.zeros(count, dtype=torch.int64),
        extra or {},
    )


def test_crossing_scales_each_axis_by_its_own_factor():
    found = to_original(
        Candidates(
            torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([0.5]), torch.tensor([2])
        ),
        size=(100, 200),
        original=(300, 400),
    )
    np.testing.assert_allclose(found.boxes_xywh, [[20.0, 60.0, 40.0, 120.0]])
    assert found.scores.tolist() == [0.5]
    assert found.labels.tolist() == [2]


def test_shapes_and_types_are_as_documented():
    found = to_original(candidates(7, {"iou": torch.rand(7)}), (100, 100), (50, 50))
    assert found.boxes_xywh.shape == (7, 4)
    assert found.boxes_xywh.dtype == found.scores.dtype == np.float64
    assert found.labels.dtype == found.offsets.dtype == np.int64
    assert found.offsets.tolist() == [0, 7]
    assert found.extra["iou"].shape == (7,)


def test_no_candidates_give_an_empty_image():
    found = to_original(candidates(0), (100, 100), (50, 50))
    assert found.num_images == 1
    assert len(found.scores) == 0


@pytest.mark.parametrize("size", [(100, 100), (333, 77)])
def test_written_digits_are_the_measured_ones(size):
    found = to_original(candidates(100), (64, 64), size)
    for column in (found.boxes_xywh, found.scores):
        again = np.array([float(f"{value:.7f}") for value in column.ravel()])
        np.testing.assert_array_equal(again, column.ravel())
