"""Weighted sums of bilinear samples, the inner loop of deformable attention (arXiv 2010.04159).

Letters: B images, Q queries, N cells of all maps, H heads, D channels of all heads, L maps, P
places that a head looks at in a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli import cpu
from detcli.cpu.sampling import sample_rows


def sample_maps(
    values: Tensor, places: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """(B, Q, D): weighted sums of bilinear samples, zero outside a map, of each head.

    values (B, N, H, D / H), maps one after the other; places (B, Q, H, L, P, 2) x and y from 0 to 1
    over the map, weights (B, Q, H, L, P).
    """
    if cpu.takes(values):
        return sample_rows(values, places, weights, shapes)
    return sample_grids(values, places, weights, shapes)


def sample_grids(
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
