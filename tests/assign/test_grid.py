"""The search for candidates at the size of a real image."""

from __future__ import annotations

import pytest
import torch

from detcli.assign.grid import find_grids, grid_lines, pairs_in_windows
from detcli.assign.max_iou import MaxIoUAssigner
from detcli.ops.boxes import pairwise_iou
from detcli.ops.priors import Priors, anchor_shapes, grid_priors, priors_inside
from tests.sections import assigner_of

STRIDES = (8, 16, 32, 64, 128)
MAPS = [(-(-800 // s), -(-1344 // s)) for s in STRIDES]


def real_priors(*, anchors: int) -> Priors:
    sizes = [2.0 ** (i / 3) for i in range(3)] if anchors == 9 else [1.0]
    ratios = [0.5, 1.0, 2.0] if anchors == 9 else [1.0]
    shapes = [anchor_shapes([4 * s * size for size in sizes], ratios) for s in STRIDES]
    return grid_priors(MAPS, STRIDES, shapes)


def objects(count: int, seed: int) -> torch.Tensor:
    """Boxes of 2 to 1100 pixels anywhere in an image of 800 x 1333."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(count, 4, generator=generator)
    extent = torch.tensor([1333.0, 800.0])
    size = 2 * (extent * 0.4) ** u[:, :2]
    corner = u[:, 2:] * (extent - size).clamp(min=0)
    return torch.cat([corner, torch.minimum(corner + size, extent)], dim=1)


def test_the_same_priors_are_looked_at_once() -> None:
    priors = real_priors(anchors=1)
    assert grid_lines(priors) is grid_lines(priors)
    assert find_grids(priors) is find_grids(priors)
    half = priors.select(priors_inside(priors, (800, 640)))
    assert find_grids(half) != find_grids(priors)


def dense_max_iou(priors: Priors, boxes: torch.Tensor, assigner: MaxIoUAssigner) -> torch.Tensor:
    """The rule on the whole matrix."""
    iou = pairwise_iou(boxes, priors.boxes)
    best, matched = iou.max(dim=0)
    matched[best < assigner.positive_iou] = -2
    matched[best < assigner.negative_iou] = -1
    for number, row in enumerate(iou):
        if row.max() > assigner.min_positive_iou:
            matched[row == row.max()] = number
    return matched


@pytest.mark.parametrize("seed", range(5))
def test_max_iou_misses_no_pair_of_the_whole_matrix(seed: int) -> None:
    priors = real_priors(anchors=9)
    assigner = MaxIoUAssigner(0.5, 0.4, 0.0)
    boxes = objects(20, seed)
    got = assigner(priors, boxes)
    want = dense_max_iou(priors, boxes, assigner)
    assert len(want.unique()) > 20  # every box, negatives and ignored ones
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["atss", "fcos"])
@pytest.mark.parametrize(
    "keywords", [{"topk": 9, "center_radius": None}, {"topk": 50, "center_radius": 1.5}]
)
def test_the_grid_changes_nothing(name: str, keywords: dict[str, float | None]) -> None:
    """Swapping two priors breaks the grid, so that all priors are looked at one by one."""
    key = {"atss": "topk", "fcos": "center_radius"}[name]
    assigner = assigner_of(name, **{key: keywords[key]})
    priors, boxes = real_priors(anchors=1), objects(12, 3)
    order = torch.arange(len(priors))
    order[0], order[300] = 300, 0
    shuffled = Priors(
        priors.boxes[order], priors.centers[order], priors.strides, priors.level_sizes
    )
    assert find_grids(priors) is not None
    assert find_grids(shuffled) is None
    got = assigner(priors, boxes)
    assert len(got.unique()) > 5
    assert torch.equal(got[order], assigner(shuffled, boxes))


def test_work_follows_the_candidates() -> None:
    priors, boxes = real_priors(anchors=9), objects(300, 0)
    assigner = MaxIoUAssigner(0.5, 0.4, 0.0)
    box, prior = assigner._candidates(grid_lines(priors), boxes)
    assert len(box) == len(prior) < 0.01 * len(priors) * len(boxes)


def test_grids_of_a_cut_pyramid() -> None:
    priors = grid_priors(
        [(3, 4), (2, 2), (1, 1)], [8, 16, 32], [anchor_shapes([8.0, 9.0], [1.0])] * 3
    )
    cut = priors.select(priors_inside(priors, (17, 24)))
    assert [grid[1:] for grid in find_grids(cut) or ()] == [
        (0, 3, 3, 2),
        (18, 2, 2, 2),
        (26, 1, 1, 2),
    ]
    lines = grid_lines(cut)
    assert lines.x1.shape == lines.x2.shape == lines.center_x.shape == (6, 3)
    assert lines.y1.shape == lines.y2.shape == lines.center_y.shape == (6, 3)
    assert lines.first.shape == lines.level.shape == lines.stride.shape == (6,)
    box, prior = pairs_in_windows(
        lines, torch.isfinite(lines.x1)[None], torch.isfinite(lines.y1)[None]
    )
    assert box.shape == prior.shape == (len(cut),)
    assert sorted(prior.tolist()) == list(range(len(cut)))


def test_not_quite_a_grid() -> None:
    priors = grid_priors([(3, 4)], [8], [anchor_shapes([8.0], [1.0])])
    assert find_grids(priors) is not None
    for column in range(6):  # one number of one prior
        moved = torch.cat([priors.boxes, priors.centers], dim=1)
        moved[5, column] += 0.5
        changed = Priors(moved[:, :4], moved[:, 4:], priors.strides, priors.level_sizes)
        assert find_grids(changed) is None
    hole = torch.ones(len(priors), dtype=torch.bool)
    hole[6] = False
    assert find_grids(priors.select(hole)) is None
