"""The pieces that heads share: matching, selection, and priors of a grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detcli.assign import IGNORED, NEGATIVE
from detcli.models.dense.decode import Selection, decode_image
from detcli.models.dense.matching import match_batch, positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.dense.tower import flatten_levels
from detcli.ops.coders import DistanceCoder
from detcli.ops.priors import Priors
from tests.models.specs import target

CANVAS = (64, 96)
STRIDES = (8, 16)


def grid() -> PriorGrid:
    return PriorGrid(square_shapes(STRIDES, 2.0), STRIDES)


def priors() -> Priors:
    return grid()([torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)], CANVAS)


def nearest(seen: Priors, boxes: Tensor) -> Tensor:
    """A plain assigner: the first box whose inside holds the centre."""
    matched = torch.full((len(seen),), NEGATIVE)
    for index in reversed(range(len(boxes))):
        low, high = boxes[index, :2], boxes[index, 2:]
        inside = ((seen.centers > low) & (seen.centers < high)).all(dim=1)
        matched[inside] = index
    return matched


def targets() -> list:
    return [
        target([[4, 4, 20, 20], [30, 4, 44, 20]], [3, 1], CANVAS, ignore=[[50, 30, 90, 60]]),
        target([], [], (40, 33)),
        target([[12, 12, 28, 28]], [2], CANVAS),
    ]


def test_objects_of_the_batch_reach_the_right_rows() -> None:
    matches = match_batch(nearest, priors(), targets(), num_classes=5, padding="seen")
    assert matches.labels.shape == (3, 8 * 12 + 4 * 6)
    assert matches.positives_per_image.tolist() == [
        int((matches.labels[image] < 5).logical_and(matches.labels[image] >= 0).sum())
        for image in range(3)
    ]
    image = matches.positive // matches.labels.shape[1]
    centers = priors().centers[matches.prior_index()]
    for row in range(len(matches.positive)):
        objects = targets()[image[row]]
        where = int((objects.boxes == matches.boxes[row]).all(dim=1).nonzero())
        assert matches.labels.flatten()[matches.positive[row]] == objects.labels[where]
        assert (centers[row] > matches.boxes[row, :2]).all()
        assert (centers[row] < matches.boxes[row, 2:]).all()
    assert positives_of_each_image(matches) == matches.positives_per_image.sum() + 1


def test_ignored_regions_and_padding() -> None:
    unseen = match_batch(nearest, priors(), targets(), num_classes=5, padding="ignored")
    everywhere = match_batch(nearest, priors(), targets(), num_classes=5, padding="seen")
    centers = priors().centers
    ignored = (unseen.labels[0] == IGNORED).nonzero().squeeze(1)
    assert len(ignored) > 10
    assert (centers[ignored] >= torch.tensor([50, 30])).all()
    assert (centers[ignored] <= torch.tensor([90, 60])).all()
    # 40 x 33 counts as 64 x 64: cells from column 64 on are padding
    padding = centers[:, 0] >= 64
    assert torch.equal(unseen.labels[1] == IGNORED, padding)
    assert (everywhere.labels[1] == 5).all()
    background = match_batch(nearest, priors(), targets(), num_classes=5, padding="background")
    assert torch.equal(background.positive, unseen.positive)
    assert (background.labels[1] == 5).all()


def test_selection_breaks_ties_by_order() -> None:
    scores = torch.tensor([[0.5, 0.9], [0.9, 0.5], [0.1, 0.9]])
    prior, label = Selection(0.2, 4).best(scores)
    assert list(zip(prior.tolist(), label.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 1),
        (0, 0),
    ]
    assert len(Selection(0.9, 4).best(scores)[0]) == 0  # above, not at the threshold


def test_factors_come_after_the_threshold() -> None:
    levels = priors().split()
    scores = [torch.full((len(level), 1), 0.3) for level in levels]
    found = decode_image(
        scores,
        [torch.ones(len(level), 4) for level in levels],
        [torch.full((len(level),), 0.1) for level in levels],
        priors=levels,
        coder=DistanceCoder(stride_units=True),
        selection=Selection(0.2, 7),
        size=(20, 30),
    )
    chosen = torch.cat([level.centers[:7] for level in levels])
    strides = torch.cat([level.strides[:7] for level in levels])
    inside = ((chosen - strides[:, None]) < torch.tensor([30, 20])).all(dim=1)
    assert 7 < inside.sum() < 14  # boxes of which nothing is left are dropped
    torch.testing.assert_close(found.scores, torch.full((int(inside.sum()),), 0.03))
    assert found.boxes[0].tolist() == [0, 0, 8, 8]
    assert found.boxes[:, 2].max() == 30


@pytest.mark.parametrize("width", [1, 4, 3])
def test_flat_rows_follow_the_priors(width: int) -> None:
    """Row p of the flat predictions belongs to prior p: cells row by row, anchors inside."""
    maps = []
    for level, (height, columns) in enumerate([(2, 3), (1, 2)]):
        code = torch.zeros(1, 2 * width, height, columns)
        for anchor in range(2):
            for number in range(width):
                for row in range(height):
                    for column in range(columns):
                        value = (((level * 10 + row) * 10 + column) * 10 + anchor) * 10 + number
                        code[0, anchor * width + number, row, column] = value
        maps.append(code)
    flat = flatten_levels(tuple(maps), width)[0]
    assert flat.shape == (16, width)
    assert (flat[:, 0].diff() > 0).all()
    assert (flat - flat[:, :1] == torch.arange(width)).all()


def test_grid_fitted_to_the_canvas() -> None:
    fitted = PriorGrid(square_shapes((8,), 1.0), (8,), fit_grid=True)
    centers = fitted([torch.zeros(1, 1, 3, 4)], (25, 47)).centers
    assert centers[:5].tolist() == [[0, 0], [11, 0], [22, 0], [33, 0], [0, 8]]
