"""3x3 convolution by Winograd's minimal filtering, for CPUs.

Letters: B images, T tiles of all images, C channels in, O channels out, K = 36 points of a tile.

F(4x4, 3x3) of Lavin and Gray (arXiv 1509.09308): each tile of 4x4 outputs costs 36
multiplications per pair of channels instead of 144. All of them are matrix products, which PyTorch
does as fast as the machine allows, while its own CPU convolution multiplies directly. The result
differs from a direct convolution by some 1e-5 of the largest value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SIDE = 4  # outputs per tile and direction
REACH = SIDE + 2  # inputs per tile and direction

_INPUT = torch.tensor(
    [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ]
)
_FILTER = torch.tensor(
    [
        [1 / 4, 0.0, 0.0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0.0, 0.0, 1.0],
    ]
)
_OUTPUT = torch.tensor(
    [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ]
)
# Both directions at once: rows and columns of a tile flattened.
INPUT = torch.kron(_INPUT, _INPUT)  # (36, 36)
FILTER = torch.kron(_FILTER, _FILTER)  # (36, 9)
OUTPUT = torch.kron(_OUTPUT, _OUTPUT)  # (16, 36)

MIN_CHANNELS = 64  # below, the transforms cost more than they save
MIN_CHANNELS_FORWARD = 128  # where no gradient follows; the backward pass gains more
# Tiles per image, not per batch: which algorithm runs must not depend on the batch size, so that
# several ranks compute the gradients of their joint batch.
MIN_TILES = 16
PORTION_BYTES = 2**24
_allowed = True


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Inside, no convolution is done this way: multiply-adds are published for direct ones."""
    global _allowed  # noqa: PLW0603
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


def pays_off(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv3x3` is faster than PyTorch's own 3x3 convolution with stride 1."""
    if not _allowed or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if weight.shape[2:] != (3, 3):
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    channels = MIN_CHANNELS if training else MIN_CHANNELS_FORWARD
    rows, columns = _tile_counts(x)
    return min(weight.shape[0], weight.shape[1]) >= channels and rows * columns >= MIN_TILES


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution, stride 1, padding 1: (B, C, H, W) float32 to (B, O, H, W), channels last.

    weight (O, C, 3, 3), bias (O,) or None. Differentiable once.
    """
    y: Tensor = _Conv3x3.apply(x, weight, bias)
    return y


class _Conv3x3(torch.autograd.Function):
    """Keeps only its inputs: tiles are cut out again for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        points = _filter_points(weight).transpose(1, 2)  # (K, C, O)
        size = (x.shape[0], weight.shape[0], *x.shape[2:])
        y = torch.empty(size, memory_format=torch.channels_last)
        for images in _portions(x, weight):
            products = torch.bmm(_input_tiles(x[images]), points)  # (K, T, O)
            tiles = torch.matmul(OUTPUT, products.transpose(0, 1))  # (T, 16, O)
            del products
            _write_tiles(tiles if bias is None else tiles.add_(bias), y[images])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = sums = None
        points = _filter_points(weight)
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty(x.shape, memory_format=torch.channels_last)
        if ctx.needs_input_grad[1]:
            sums = weight.new_zeros(REACH**2, *weight.shape[:2])  # (K, O, C)
        for images in _portions(x, weight):
            tiles = torch.matmul(OUTPUT.t(), _output_tiles(grad[images])).transpose(0, 1)
            if sums is not None:  # tiles (K, T, O)
                sums.baddbmm_(tiles.transpose(1, 2), _input_tiles(x[images]))
            if grad_x is not None:
                products = torch.bmm(tiles, points)  # (K, T, C)
                spread = torch.matmul(INPUT.t(), products.transpose(0, 1))
                grad_x[images] = _overlap_add(spread, x[images].shape)
        if sums is not None:
            grad_weight = (FILTER.t() @ sums.flatten(1)).t().reshape(weight.shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _portions(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """The images in portions whose tiles stay below PORTION_BYTES, or one by one: what is in use
    at the peak must not grow with the batch."""
    rows, columns = _tile_counts(x)
    channels = max(weight.shape[0], weight.shape[1])
    image_bytes = rows * columns * REACH**2 * channels * x.element_size()
    step = max(1, PORTION_BYTES // image_bytes)
    for first in range(0, len(x), step):
        yield slice(first, first + step)


def _tile_counts(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles that cover a map (B, C, H, W)."""
    return -(-x.shape[-2] // SIDE), -(-x.shape[-1] // SIDE)


def _filter_points(weight: Tensor) -> Tensor:
    """Transformed filters (K, O, C)."""
    out_channels, channels = weight.shape[:2]
    return (FILTER @ weight.reshape(-1, 9).t()).view(-1, out_channels, channels)


def _input_tiles(x: Tensor) -> Tensor:
    """Transformed, overlapping tiles (K, T, C) of maps (B, C, H, W) with a border of zeros."""
    (images, channels, height, width), (rows, columns) = x.shape, _tile_counts(x)
    padded = x.new_zeros(images, rows * SIDE + 2, columns * SIDE + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    image, row, column, _ = padded.stride()
    tiles = padded.as_strided(
        (images, rows, columns, REACH, REACH, channels),
        (image, SIDE * row, SIDE * column, row, column, 1),
    )
    return torch.matmul(INPUT, tiles.reshape(-1, REACH * REACH, channels)).transpose(0, 1)


def _output_tiles(grad: Tensor) -> Tensor:
    """Tiles (T, 16, O) side by side of maps (B, O, H, W), zeros beyond their end."""
    (images, channels, height, width), (rows, columns) = grad.shape, _tile_counts(grad)
    last = grad.permute(0, 2, 3, 1)
    if height % SIDE or width % SIDE:
        padded = grad.new_zeros(images, rows * SIDE, columns * SIDE, channels)
        padded[:, :height, :width] = last
        last = padded
    tiles = last.reshape(images, rows, SIDE, columns, SIDE, channels).transpose(2, 3)
    return tiles.reshape(-1, SIDE * SIDE, channels)


def _write_tiles(tiles: Tensor, maps: Tensor) -> None:
    """Tiles (T, 16, O) into maps (B, O, H, W), channels last; what reaches past them is cut."""
    images, _, height, width = maps.shape
    rows, columns = _tile_counts(maps)
    parts = tiles.view(images, rows, columns, SIDE, SIDE, -1).transpose(2, 3)
    last = maps.permute(0, 2, 3, 1)
    if height % SIDE or width % SIDE:
        padded = parts.reshape(images, rows * SIDE, columns * SIDE, -1)
        last.copy_(padded[:, :height, :width])
    else:
        last.view(parts.shape).copy_(parts)


def _overlap_add(tiles: Tensor, like: torch.Size) -> Tensor:
    """Maps of shape `like` (B, C, H, W) from overlapping tiles (T, K, C); without the border."""
    images, channels, height, width = like
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    parts = tiles.view(images, rows, columns, REACH, REACH, channels).transpose(2, 3)
    total = tiles.new_zeros(images, rows + 1, SIDE, columns + 1, SIDE, channels)
    total[:, :rows, :, :columns] = parts[:, :, :SIDE, :, :SIDE]
    over = REACH - SIDE  # rows and columns that reach into the next tile
    total[:, 1:, :over, :columns] += parts[:, :, SIDE:, :, :SIDE]
    total[:, :rows, :, 1:, :over] += parts[:, :, :SIDE, :, SIDE:]
    total[:, 1:, :over, 1:, :over] += parts[:, :, SIDE:, :, SIDE:]
    padded = total.view(images, (rows + 1) * SIDE, (columns + 1) * SIDE, channels)
    return padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
