"""Weighted sums of bilinear samples, the inner loop of deformable attention (arXiv 2010.04159).

Letters: B images, Q queries, N cells of all maps, H heads, D channels of all heads, L maps, P
places that a head looks at in a map; h, w cells of a map; R rows, K terms of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_maps(
    values: Tensor, places: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """(B, Q, D): weighted sums of bilinear samples, zero outside a map, of each head.

    values (B, N, H, D / H), maps one after the other; places (B, Q, H, L, P, 2) x and y from 0 to 1
    over the map, weights (B, Q, H, L, P). On a processor it is a sparse matrix product, which takes
    less than half the time of `F.grid_sample`; elsewhere, and under a compiler, it is the latter.
    """
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        return _sample_rows(values, places, weights, shapes)
    return _sample_grids(values, places, weights, shapes)


def _sample_grids(
    values: Tensor, places: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """A map of each head at a time."""
    batch, count, heads = places.shape[:3]
    channels = values.shape[3]
    grids = (2 * places - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B * H, Q, P, 2)
    levels = torch.split(values, [height * width for height, width in shapes], dim=1)
    samples = []
    for level, grid, (height, width) in zip(levels, grids, shapes, strict=True):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples.append(F.grid_sample(maps, grid, align_corners=False))  # (B * H, D / H, Q, P)
    shares = (
        weights.permute(0, 2, 1, 3, 4).flatten(3).flatten(0, 1)[:, None]
    )  # (B * H, 1, Q, L * P)
    mixed = (torch.cat(samples, dim=-1) * shares).sum(dim=-1)  # (B * H, D / H, Q)
    return mixed.view(batch, heads * channels, count).transpose(1, 2)


def _sample_rows(
    values: Tensor, places: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Every head of every query is a sum of 4 L P rows, the corners around its places.

    All maps get zeros around them and up to the width of the widest, so that the neighbours of a
    cell are equally far from it in all of them.
    """
    batch, count, heads = places.shape[:3]
    stride = max(width for _, width in shapes) + 2
    levels = torch.split(values, [height * width for height, width in shapes], dim=1)
    padded = [
        F.pad(torch.unflatten(level, 1, shape), (0, 0, 0, 0, 1, stride - 1 - shape[1], 1, 1))
        for level, shape in zip(levels, shapes, strict=True)
    ]
    cells = torch.cat([level.flatten(1, 2) for level in padded], dim=1)
    sides = places.new_tensor([[width, height] for height, width in shapes])[:, None]
    position = places * sides + 0.5  # in cells, from the middle of the rim's first one
    corner = position.detach().nan_to_num().floor().clamp(min=0).minimum(sides)
    right, down = (position - corner).clamp(0, 1).unbind(dim=-1)  # beyond the rim: on it
    below, above = weights * down, weights * (1 - down)
    shares = torch.stack(
        [above - above * right, above * right, below - below * right, below * right], dim=-1
    )
    first = _rows_of_cells(corner.int(), shapes, stride, cells.shape[1])
    mixed: Tensor = WeightedRows.apply(
        cells.flatten(0, 2),
        first.flatten(0, 2).flatten(1),
        shares.flatten(0, 2).flatten(1, 2),
        (0, heads, stride * heads, (stride + 1) * heads),
    )
    return mixed.view(batch, count, heads * values.shape[3])


def _rows_of_cells(
    cell: Tensor, shapes: Sequence[tuple[int, int]], stride: int, num_cells: int
) -> Tensor:
    """(B, Q, H, L, P) int32: rows of a (B, num_cells, H) tensor that is flat, for cells (B, Q, H,
    L, P, 2), x and y in a padded map of `stride` columns."""
    batch, _, heads = cell.shape[:3]
    count_on = partial(torch.arange, dtype=torch.int32, device=cell.device)
    rows = torch.tensor([height + 2 for height, _ in shapes], dtype=torch.int32, device=cell.device)
    top = (rows.cumsum(0, dtype=torch.int32) - rows)[:, None]
    x, y = cell.unbind(dim=-1)
    image = count_on(batch).view(batch, 1, 1, 1, 1) * num_cells
    found: Tensor = (image + (top + y) * stride + x) * heads + count_on(heads)[:, None, None]
    return found


class WeightedRows(torch.autograd.Function):
    """Sums of weighted rows: a product with a sparse matrix, whose transpose the gradient of the
    rows needs. Sorting the terms by their rows makes that a sum of rows again; terms that are
    equally far from one that is sorted are so, too."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, first: Tensor, weights: Tensor, shifts: Sequence[int]
    ) -> Tensor:
        """(S, C) sums of rows (R, C): K groups of terms each, at the row `first` (S, K) and as many
        rows after it as `shifts` say, with weights (S, K, shifts)."""
        ctx.save_for_backward(rows, first, weights)
        ctx.shifts = shifts
        return _sums(rows, first, weights, shifts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """Gradients of the rows and of the weights."""
        rows, first, weights = ctx.saved_tensors
        grad = grad.contiguous()
        with torch.enable_grad():  # the library's own gradient, of the weights alone
            variable = weights.detach().requires_grad_()
            sums = _sums(rows, first, variable, ctx.shifts)
            (of_weights,) = torch.autograd.grad(sums, variable, grad)
        order = first.flatten().argsort()
        sources = order // first.shape[1]
        uses = torch.bincount(first.flatten(), minlength=len(rows))
        starts = uses.cumsum(0) - uses
        of_rows = torch.zeros_like(rows)
        for shift, shares in zip(ctx.shifts, weights.flatten(0, 1).unbind(dim=1), strict=True):
            part = F.embedding_bag(
                sources, grad, starts, mode="sum", per_sample_weights=shares.index_select(0, order)
            )
            of_rows[shift:] += part[: len(rows) - shift]
        return of_rows, None, of_weights, None


def _sums(rows: Tensor, first: Tensor, weights: Tensor, shifts: Sequence[int]) -> Tensor:
    terms = torch.stack([first + shift for shift in shifts], dim=-1)
    return F.embedding_bag(
        terms.flatten(1), rows, per_sample_weights=weights.flatten(1), mode="sum"
    )
