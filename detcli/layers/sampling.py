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
    about half the time of `F.grid_sample` there; elsewhere, and under a compiler, it is the latter.
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
    """Every head of every query is a sum of 4 L P rows, the corners around its places."""
    batch, count = places.shape[:2]
    levels = torch.split(values, [height * width for height, width in shapes], dim=1)
    rims = [
        F.pad(torch.unflatten(level, 1, shape), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, shape in zip(levels, shapes, strict=True)
    ]
    cells = torch.cat(rims, dim=1)  # with zeros around each map
    sides = places.new_tensor([[width, height] for height, width in shapes])[:, None]
    position = places * sides + 0.5  # in cells, from the middle of the rim's first one
    corner = position.detach().nan_to_num().floor().clamp(min=0).minimum(sides)
    right, down = (position - corner).clamp(0, 1).unbind(dim=-1)  # beyond the rim: on it
    below, above = weights * down, weights * (1 - down)
    shares = torch.stack(
        [above - above * right, above * right, below - below * right, below * right], dim=-1
    )
    indices = _rows_of_corners(corner.int(), shapes, cells.shape[1])
    mixed: Tensor = WeightedRows.apply(
        cells.flatten(0, 2), indices.flatten(0, 2).flatten(1), shares.flatten(0, 2).flatten(1)
    )
    return mixed.view(batch, count, values.shape[2] * values.shape[3])


def _rows_of_corners(corner: Tensor, shapes: Sequence[tuple[int, int]], num_cells: int) -> Tensor:
    """(B, Q, H, L, P, 4) int32: rows of a (B, num_cells, H) tensor that is flat, for the upper left
    corner (B, Q, H, L, P, 2), x and y in a map with its rim, and its three neighbours."""
    batch, _, heads = corner.shape[:3]
    count_on = partial(torch.arange, dtype=torch.int32, device=corner.device)
    sides = corner.new_tensor(shapes) + 2  # (L, 2), height and width with the rim
    row = sides[:, 1:]
    sizes = sides.prod(dim=1, dtype=torch.int32)
    first = (sizes.cumsum(0, dtype=torch.int32) - sizes)[:, None]
    image = count_on(batch).view(batch, 1, 1, 1, 1) * num_cells
    x, y = corner.unbind(dim=-1)
    cell = image + first + y * row + x
    neighbours = torch.cat([0 * row, 0 * row + 1, row, row + 1], dim=1)[:, None]  # (L, 1, 4)
    heads_of_cell = cell * heads + count_on(heads)[:, None, None]
    corners: Tensor = heads_of_cell[..., None] + neighbours * heads
    return corners


class WeightedRows(torch.autograd.Function):
    """Sums of weighted rows: a product with a sparse matrix, whose transpose the gradient of the
    rows needs. Sorting the indices once is what makes that a sum of rows again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """(S, C) sums of K of the rows (R, C) by indices and weights (S, K)."""
        ctx.save_for_backward(rows, indices, weights)
        return F.embedding_bag(indices, rows, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        """Gradients of the rows and of the weights."""
        rows, indices, weights = ctx.saved_tensors
        grad = grad.contiguous()
        with torch.enable_grad():  # the library's own gradient, of the weights alone
            variable = weights.detach().requires_grad_()
            sums = F.embedding_bag(indices, rows, per_sample_weights=variable, mode="sum")
            (of_weights,) = torch.autograd.grad(sums, variable, grad)
        order = indices.flatten().argsort()
        uses = torch.bincount(indices.flatten(), minlength=len(rows))
        of_rows = F.embedding_bag(
            order // indices.shape[1], grad, uses.cumsum(0) - uses, mode="sum",
            per_sample_weights=weights.flatten().index_select(0, order),
        )  # fmt: skip
        return of_rows, None, of_weights
