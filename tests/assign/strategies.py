"""Random priors and boxes, on eighths of a pixel so that ties happen and are exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from detcli.ops.priors import Priors, anchor_shapes, grid_priors, priors_inside

eighths = st.integers(-64, 1024).map(lambda n: n / 8)
whole = st.integers(-1, 16).map(lambda n: n * 8.0)  # lines on which grid points lie


class Case(NamedTuple):
    priors: Priors
    anchors: int  # priors per cell
    boxes: Tensor


def _corners(a: float, b: float, c: float, d: float) -> list[float]:
    return [min(a, c), min(b, d), max(a, c), max(b, d)]


def box_lists(min_size: int = 0) -> st.SearchStrategy[Tensor]:
    side = eighths | whole
    one = st.builds(_corners, side, side, side, side)
    boxes = st.lists(one, min_size=min_size, max_size=5)
    doubled = boxes.map(lambda rows: rows + rows[:1])  # two objects in the same place
    return (boxes | doubled).map(lambda rows: torch.tensor(rows).reshape(-1, 4))


@st.composite
def grids(draw: st.DrawFn) -> tuple[Priors, int]:
    """Up to three levels, empty ones among them, cut at an image's size."""
    side = st.integers(0, 5)
    maps = draw(st.lists(st.tuples(side, side), min_size=1, max_size=3))
    ratios = draw(st.sampled_from([(1.0,), (0.25, 1.0, 4.0)]))
    scales = draw(st.sampled_from([(2.0,), (4.0, 5.0)]))
    offset = draw(st.sampled_from([0.0, 0.5]))
    strides = [8 * 2**level for level in range(len(maps))]
    shapes = [anchor_shapes([scale * s for scale in scales], ratios) for s in strides]
    priors = grid_priors(maps, strides, shapes, offset=offset)
    size = (draw(st.integers(1, 160)), draw(st.integers(1, 160)))
    keep = priors_inside(priors, size, offset=offset)
    return priors.select(keep), len(ratios) * len(scales)


@st.composite
def scattered(draw: st.DrawFn) -> tuple[Priors, int]:
    """Levels of boxes anywhere; no two centres of a level agree."""
    point = st.tuples(eighths, eighths)
    levels = draw(st.lists(st.lists(point, max_size=6, unique=True), min_size=1, max_size=3))
    points = [p for level in levels for p in level]
    halves = draw(
        st.lists(
            st.tuples(st.integers(0, 64), st.integers(0, 64)),
            min_size=len(points),
            max_size=len(points),
        )
    )
    centers = torch.tensor(points).reshape(-1, 2)
    half = torch.tensor(halves, dtype=torch.float32).reshape(-1, 2)
    sizes = tuple(len(level) for level in levels)
    strides = torch.repeat_interleave(
        torch.tensor([8.0 * 2**n for n in range(len(sizes))]), torch.tensor(sizes)
    )
    priors = Priors(torch.cat([centers - half, centers + half], 1), centers, strides, sizes)
    return priors, 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    priors, anchors = draw(grids() | scattered())
    return Case(priors, anchors, draw(box_lists()))
