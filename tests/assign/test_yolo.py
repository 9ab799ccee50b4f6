"""The two rules of YOLOv4 against plain loops over objects, levels and anchors."""

from __future__ import annotations

import pytest
import torch

from detcli.assign.yolo import Objects, Pairs, join_objects, pairs_by_ratio, pairs_by_shape
from detcli.ops.yolo import build_levels
from detcli.types import Target

LEVELS = build_levels(
    [[10, 14, 20, 12], [30, 40, 44, 26], [60, 60, 90, 70]], (8, 16, 32), (1.2, 1.1, 1.05)
)
CANVAS = (96, 128)
GRIDS = [(CANVAS[0] // level.stride, CANVAS[1] // level.stride) for level in LEVELS]


def some_objects(seed: int) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(15, 2, generator=generator) * torch.tensor([128.0, 96.0])
    sides = 4 + torch.rand(15, 2, generator=generator) * 90
    boxes = torch.cat([center - sides / 2, center + sides / 2], dim=1)
    image = torch.randint(0, 2, (15,), generator=generator).sort().values
    return Objects(image, torch.randint(0, 3, (15,), generator=generator), boxes)


def as_sets(found: list[Pairs]) -> list[set[tuple[int, ...]]]:
    """(image, anchor, row, column, object) of each level; no pair may be there twice."""
    sets = []
    for pairs in found:
        rows = torch.stack(list(pairs), dim=1).tolist()
        assert len({tuple(row) for row in rows}) == len(rows)
        sets.append({tuple(row) for row in rows})
    return sets


def shape_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    common = min(a[0], b[0]) * min(a[1], b[1])
    return common / (a[0] * a[1] + b[0] * b[1] - common)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_iou", [0.213, 1.0])
def test_by_shape_as_darknet_does(seed: int, min_iou: float) -> None:
    objects = some_objects(seed)
    want: list[set[tuple[int, ...]]] = [set() for _ in LEVELS]
    for number, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        side = (x2 - x1, y2 - y1)
        ious = [shape_iou(side, anchor) for level in LEVELS for anchor in level.anchors]
        for place, iou in enumerate(ious):
            level, anchor = divmod(place, 2)
            if place == max(range(6), key=ious.__getitem__) or iou > min_iou:
                stride = LEVELS[level].stride
                column, row = int((x1 + x2) / 2 / stride), int((y1 + y2) / 2 / stride)
                want[level].add((int(objects.image[number]), anchor, row, column, number))
    assert as_sets(pairs_by_shape(objects, LEVELS, GRIDS, min_iou)) == want
    assert sum(map(len, want)) >= 15


@pytest.mark.parametrize("seed", range(4))
def test_by_ratio_with_the_nearest_neighbours(seed: int) -> None:
    objects = some_objects(seed)
    want: list[set[tuple[int, ...]]] = [set() for _ in LEVELS]
    for level, (height, width), found in zip(LEVELS, GRIDS, want, strict=True):
        for number, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
            x, y = (x1 + x2) / 2 / level.stride, (y1 + y2) / 2 / level.stride
            cells = [(int(x), int(y))]
            if x % 1 < 0.5 and x > 1:
                cells.append((int(x) - 1, int(y)))
            if y % 1 < 0.5 and y > 1:
                cells.append((int(x), int(y) - 1))
            if x % 1 > 0.5 and x < width - 1:
                cells.append((int(x) + 1, int(y)))
            if y % 1 > 0.5 and y < height - 1:
                cells.append((int(x), int(y) + 1))
            for anchor, (w, h) in enumerate(level.anchors):
                worst = max(max(a / b, b / a) for a, b in (((x2 - x1), w), ((y2 - y1), h)))
                if worst < 4:
                    for column, row in cells:
                        found.add((int(objects.image[number]), anchor, row, column, number))
    assert as_sets(pairs_by_ratio(objects, LEVELS, GRIDS, 4.0)) == want


def test_objects_of_a_batch() -> None:
    none = torch.zeros(0, 4)
    targets = [
        Target(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([2]), none, CANVAS),
        Target(none, torch.zeros(0, dtype=torch.int64), none, CANVAS),
        Target(torch.tensor([[0.0, 0, 8, 4], [1.0, 1, 8, 8]]), torch.tensor([0, 1]), none, CANVAS),
    ]
    objects = join_objects(targets)
    assert objects.image.tolist() == [0, 2, 2]
    assert objects.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("rule", [pairs_by_shape, pairs_by_ratio])
def test_a_centre_on_the_far_border_stays_inside(rule) -> None:
    boxes = torch.tensor([[100.0, 70, 156, 122]])  # centre at (128, 96)
    objects = Objects(torch.tensor([0]), torch.tensor([0]), boxes)
    found = rule(objects, LEVELS, GRIDS, 4.0 if rule is pairs_by_ratio else 0.213)
    assert sum(len(pairs.object) for pairs in found) > 0
    for pairs, (height, width) in zip(found, GRIDS, strict=True):
        assert (pairs.row < height).all()
        assert (pairs.column < width).all()
