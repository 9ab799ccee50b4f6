"""The regular structure of priors, which lets assigners look only where an object can match.

Letters: P priors, G ground-truth boxes, T prior types (one per level and prior of a cell),
W columns and H rows of the largest level, N pairs of a box and a prior.

The corners of a grid's priors depend on the column alone (x) or on the row alone (y), so that
whatever rules out a column for a box rules out all its priors: work and memory grow with
G x T x (W + H) and the pairs that remain, not with G x P.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.ops.priors import Priors

Found = TypeVar("Found")


def _once(find: Callable[[Priors], Found]) -> Callable[[Priors], Found]:
    """`find`, which looks at the same priors only once."""

    @functools.wraps(find)
    def look_up(priors: Priors) -> Found:
        name = find.__name__
        if name not in priors.derived:
            priors.derived[name] = find(priors)
        found: Found = priors.derived[name]
        return found

    return look_up


class LevelGrid(NamedTuple):
    """One level of P priors: `rows` x `columns` cells with `anchors` priors each, from `start`."""

    level: int
    start: int
    rows: int
    columns: int
    anchors: int


class GridLines(NamedTuple):
    """Corners and centres of the priors of each type along its columns and rows.

    x1, x2, center_x (T, W); y1, y2, center_y (T, H): pixels; places past a level's end hold
    x1 = inf, x2 = -inf, centre = NaN, which neither meet nor lie in any box. level, stride (T,);
    the prior of type t in row r and column c has index first[t] + r * row_step[t] + c *
    column_step[t], all (T,) int64.
    """

    x1: Tensor
    x2: Tensor
    center_x: Tensor
    y1: Tensor
    y2: Tensor
    center_y: Tensor
    level: Tensor
    stride: Tensor
    first: Tensor
    row_step: Tensor
    column_step: Tensor


@_once
def find_grids(priors: Priors) -> tuple[LevelGrid, ...] | None:
    """The grid of each level that has priors; None if they do not form grids.

    Nothing is taken on trust: every corner and centre is compared with its column and row.
    """
    filled = [
        (level, start, size)
        for level, (start, size) in enumerate(zip(_starts(priors), priors.level_sizes, strict=True))
        if size
    ]
    counts = []
    for _, start, size in filled:
        centers = priors.centers[start : start + size]
        in_first_row = centers[:, 1] == centers[0, 1]
        in_first_cell = in_first_row & (centers[:, 0] == centers[0, 0])
        counts.append(torch.stack([in_first_row.sum(), in_first_cell.sum()]))
    sizes = torch.stack(counts).tolist() if counts else []  # the only wait for the device so far

    grids, regular = [], []
    for (level, start, size), (per_row, anchors) in zip(filled, sizes, strict=True):
        if per_row == 0 or size % per_row or per_row % anchors:
            return None
        grid = LevelGrid(level, start, size // per_row, per_row // anchors, anchors)
        grids.append(grid)
        regular.append(_is_regular(priors, grid))
    return tuple(grids) if all(torch.stack(regular).tolist() if regular else []) else None


@_once
def grid_lines(priors: Priors) -> GridLines:
    """The lines of priors; those that form no grid count as P types of one cell each."""
    grids = find_grids(priors)
    if grids is None:
        grids = tuple(
            LevelGrid(level, start, 1, 1, size)
            for level, (start, size) in enumerate(
                zip(_starts(priors), priors.level_sizes, strict=True)
            )
            if size
        )
    width, height = max(g.columns for g in grids), max(g.rows for g in grids)
    x_lines, y_lines, numbers, strides = [], [], [], []
    for grid in grids:
        end = grid.start + grid.rows * grid.columns * grid.anchors
        shape = (grid.rows, grid.columns, grid.anchors, -1)
        boxes = priors.boxes[grid.start : end].view(shape)
        centers = priors.centers[grid.start : end].view(shape)
        x_lines.append(_pad(width, boxes[0, ..., 0], boxes[0, ..., 2], centers[0, ..., 0]))
        y_lines.append(_pad(height, boxes[:, 0, :, 1], boxes[:, 0, :, 3], centers[:, 0, :, 1]))
        strides.append(priors.strides[grid.start : grid.start + grid.anchors])
        numbers += [
            (grid.level, grid.start + anchor, grid.columns * grid.anchors, grid.anchors)
            for anchor in range(grid.anchors)
        ]
    x1, x2, center_x = torch.cat(x_lines, dim=1).unbind()
    y1, y2, center_y = torch.cat(y_lines, dim=1).unbind()
    level, first, row_step, column_step = torch.tensor(numbers, device=x1.device).unbind(1)
    return GridLines(
        x1, x2, center_x, y1, y2, center_y, level, torch.cat(strides), first, row_step, column_step
    )


def pairs_in_windows(lines: GridLines, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Box and prior index (N,), (N,) of all priors in a box's columns and rows, box by box.

    columns (G, T, W) and rows (G, T, H) bool: where each box looks among the priors of each type.
    What lies between the first and the last true place is looked at too.
    """
    first_column, num_columns = _span(columns)
    first_row, num_rows = _span(rows)
    num_types = len(lines.first)
    counts = (num_columns * num_rows).flatten()  # (G * T,)
    window = torch.repeat_interleave(counts)  # (N,)
    place = torch.arange(len(window), device=counts.device) - (counts.cumsum(0) - counts)[window]
    width = num_columns.flatten()[window]
    row = first_row.flatten()[window] + place // width
    column = first_column.flatten()[window] + place % width
    kind = window % num_types
    prior = lines.first[kind] + row * lines.row_step[kind] + column * lines.column_step[kind]
    return window // num_types, prior


def _starts(priors: Priors) -> list[int]:
    ends = [0]
    for size in priors.level_sizes:
        ends.append(ends[-1] + size)
    return ends[:-1]


def _is_regular(priors: Priors, grid: LevelGrid) -> Tensor:
    """() bool: x is the same in every row and rises, y in every column; a cell has one centre."""
    end = grid.start + grid.rows * grid.columns * grid.anchors
    boxes = priors.boxes[grid.start : end].view(grid.rows, grid.columns, grid.anchors, 4)
    centers = priors.centers[grid.start : end].view(grid.rows, grid.columns, grid.anchors, 2)
    columns, rows = centers[0, :, 0, 0], centers[:, 0, 0, 1]
    # smallest = largest over the rows: cheaper than to compare each row
    same_in_rows = boxes.amin(dim=0) == boxes.amax(dim=0)
    return torch.stack(
        [
            same_in_rows[..., 0::2].all(),
            (boxes[..., 1::2] == boxes[:, :1, :, 1::2]).all(),
            (centers[..., 0] == columns[:, None]).all(),
            (centers[..., 1] == rows[:, None, None]).all(),
            (columns[1:] > columns[:-1]).all(),
            (rows[1:] > rows[:-1]).all(),
        ]
    ).all()


def _pad(length: int, low: Tensor, high: Tensor, center: Tensor) -> Tensor:
    """Lines (3, A, length) from three columns (places, A) of one level."""
    missing = (0, length - len(low))
    return torch.stack(
        [
            F.pad(low.T, missing, value=torch.inf),
            F.pad(high.T, missing, value=-torch.inf),
            F.pad(center.T, missing, value=torch.nan),
        ]
    )


def _span(mask: Tensor) -> tuple[Tensor, Tensor]:
    """First true place (G, T) and number of places (G, T) up to the last one of mask (G, T, W)."""
    place = torch.arange(mask.shape[-1], device=mask.device)
    first = torch.where(mask, place, mask.shape[-1]).amin(dim=-1)
    last = torch.where(mask, place, -1).amax(dim=-1)
    return first, (last - first + 1).clamp(min=0)
