"""Ignored regions against a loop, and their border."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.assign import ignore_inside
from tests.assign.strategies import box_lists, eighths


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(eighths, eighths, st.integers(-2, 3)), max_size=20), box_lists())
def test_ignored_regions_equal_the_loop(rows: list[tuple[float, float, int]], boxes: torch.Tensor):
    centers = torch.tensor([row[:2] for row in rows]).reshape(-1, 2)
    matched = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    want = []
    for x, y, index in rows:
        inside = any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes.tolist())
        want.append(-2 if inside and index < 0 else index)
    assert ignore_inside(matched, centers, boxes).tolist() == want


def test_ignored_regions_hold_their_border() -> None:
    region = torch.tensor([[2.0, 3.0, 8.0, 9.0]])
    centers = torch.tensor([[2.0, 3.0], [8.0, 9.0], [5.0, 9.0], [8.125, 9.0], [5.0, 5.0]])
    matched = torch.tensor([-1, -1, -1, -1, 0])
    assert ignore_inside(matched, centers, region).tolist() == [-2, -2, -2, -1, 0]
    assert ignore_inside(matched, centers, region[:0]).tolist() == matched.tolist()
