"""Selection of candidates."""

from __future__ import annotations

import torch

from detcli.models.dense.decode import Selection, decode_batch
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.ops.coders import DistanceCoder
from detcli.ops.priors import Priors

CANVAS = (64, 96)


STRIDES = (8, 16)


def grid() -> PriorGrid:
    return PriorGrid(square_shapes(STRIDES, 2.0), STRIDES)


def priors() -> Priors:
    return grid()([torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)], CANVAS)


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
    (found,) = decode_batch(
        [torch.full((1, len(level), 1), 0.3) for level in levels],
        [torch.ones(1, 4, 8, 12), torch.ones(1, 4, 4, 6)],
        [(20, 30)],
        priors=priors(),
        coder=DistanceCoder(stride_units=True),
        selection=Selection(0.2, 7),
        factors=[torch.full((1, len(level)), 0.1) for level in levels],
    )
    chosen = torch.cat([level.centers[:7] for level in levels])
    strides = torch.cat([level.strides[:7] for level in levels])
    inside = ((chosen - strides[:, None]) < torch.tensor([30, 20])).all(dim=1)
    assert 7 < inside.sum() < 14  # boxes of which nothing is left are dropped
    torch.testing.assert_close(found.scores, torch.full((int(inside.sum()),), 0.03))
    assert found.boxes[0].tolist() == [0, 0, 8, 8]
    assert found.boxes[:, 2].max() == 30
