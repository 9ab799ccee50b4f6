"""Matching of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from detcli.assign import IGNORED, NEGATIVE
from detcli.models.dense.matching import match_batch, positives_of_each_image
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
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
