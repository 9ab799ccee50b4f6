"""Padding masks, and codes of the places of a map for attention (DETR, arXiv 2005.12872).

Letters: B images, D channels of a code, N numbers; h, w cells of a map; H, W pixels of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 10000  # of the wave lengths (Attention is all you need, arXiv 1706.03762)
EPSILON = 1e-6  # beside a count of cells
NUM_CELLS = 50  # that a learned code has for a side of the map


def valid_cells(
    sizes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    grid: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """(B, h, w) bool: the cells of a map of `grid` (h, w) that show an image and no padding.

    sizes: (height, width) of the images in the top left corners of a batch of `canvas` (H, W). The
    nearest pixel decides, as when a mask of the batch is resized; that of the first cell of a side
    is its first pixel, so that no image is without cells.
    """
    sides = []
    for axis, (pixels, cells) in enumerate(zip(canvas, grid, strict=True)):
        limits = torch.tensor([size[axis] for size in sizes], device=device).view(-1, 1, 1)
        inside = (torch.arange(pixels, device=device) < limits).float()  # (B, 1, pixels)
        sides.append(F.interpolate(inside, size=cells)[:, 0].bool())
    rows, columns = sides
    return rows[:, :, None] & columns[:, None]


def wave_codes(numbers: Tensor, channels: int) -> Tensor:
    """(..., channels) float32: sines and cosines, in turn, of numbers (...) over wave lengths that
    grow from 2 pi to nearly 2 pi x 10000."""
    index = torch.arange(channels, dtype=torch.float32, device=numbers.device)
    angles = numbers[..., None] / TEMPERATURE ** (2 * (index // 2) / channels)
    pairs = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)
    return pairs.flatten(-2)


class SinePositions(nn.Module):
    """Codes without parameters: half of the channels for y, then half for x.

    The valid cells of a side are numbered from 1 - `offset` on, and scaled so that the last one is
    2 pi; offset: 0 in DETR, 0.5 in Deformable DETR.
    """

    def __init__(self, channels: int, *, offset: float) -> None:
        super().__init__()
        self.channels = channels
        self.offset = offset

    def forward(self, valid: Tensor) -> Tensor:
        """(B, h, w, D) float32 for valid cells (B, h, w)."""
        codes = []
        for axis in (1, 2):
            number = valid.cumsum(axis, dtype=torch.float32)
            last = number.narrow(axis, -1, 1)
            scaled = (number - self.offset) / (last + EPSILON) * (2 * math.pi)
            codes.append(wave_codes(scaled, self.channels // 2))
        return torch.cat(codes, dim=-1)


class LearnedPositions(nn.Module):
    """A learned code for every column, then one for every row, of up to 50 each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.rand(NUM_CELLS, channels // 2))
        self.rows = nn.Parameter(torch.rand(NUM_CELLS, channels // 2))

    def forward(self, valid: Tensor) -> Tensor:
        """(B, h, w, D) for valid cells (B, h, w), h and w at most 50; all images have the same."""
        batch, height, width = valid.shape
        assert max(height, width) <= NUM_CELLS, "the recipe sees to it"
        columns = self.columns[:width].expand(height, -1, -1)
        rows = self.rows[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], dim=-1).expand(batch, -1, -1, -1)
