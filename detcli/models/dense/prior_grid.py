"""The priors of a detector for whatever maps its pyramid makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcli.ops.priors import Priors, anchor_shapes, grid_priors


class PriorGrid(nn.Module):
    """Anchor shapes of each level, repeated on the grid of its map.

    shapes (L, A, 4): anchor corners around the origin; strides: pixels per cell of each level;
    offset: where in its cell a point lies, as a share of the stride; fit_grid: the points of a
    map are floor(image side / map side) pixels apart, as in torchvision, instead of the stride.
    """

    shapes: Tensor

    def __init__(
        self,
        shapes: Tensor,
        strides: Sequence[int],
        *,
        offset: float = 0.0,
        fit_grid: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("shapes", shapes, persistent=False)
        self.strides = tuple(strides)
        self.offset = offset
        self.fit_grid = fit_grid

    @property
    def num_anchors(self) -> int:
        """Priors per cell."""
        return self.shapes.shape[1]

    def forward(self, maps: Sequence[Tensor], canvas: tuple[int, int]) -> Priors:
        """Priors of maps (B, *, h, w), one per level, of a padded batch of `canvas` pixels."""
        map_sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        steps = None
        if self.fit_grid:
            steps = [
                (float(canvas[0] // height), float(canvas[1] // width))
                for height, width in map_sizes
            ]
        return grid_priors(
            map_sizes,
            self.strides,
            self.shapes.float().unbind(),
            offset=self.offset,
            steps=steps,
        )


def square_shapes(strides: Sequence[int], scale: float) -> Tensor:
    """Shapes (L, 1, 4) of one square anchor per cell with sides of scale x stride pixels."""
    half = torch.tensor(strides, dtype=torch.float32)[:, None, None] * scale / 2
    return torch.cat([-half, -half, half, half], dim=2)


def build_anchors(
    strides: Sequence[int],
    *,
    base_scale: float,
    scales_per_octave: int,
    ratios: Sequence[float],
    sizes: Sequence[Sequence[float]] | None,
    round_corners: bool,
    fit_grid: bool,
) -> PriorGrid:
    """Anchors of every size and ratio in each cell, centred on the cell's corner.

    sizes: in pixels per level; None: base_scale x stride x 2^(i / scales_per_octave).
    round_corners: to whole pixels. fit_grid: see `PriorGrid`. Raises ValueError when `sizes` has
    another number of levels than the pyramid.
    """
    if sizes is None:
        octave = [2 ** (step / scales_per_octave) for step in range(scales_per_octave)]
        sizes = [[stride * base_scale * scale for scale in octave] for stride in strides]
    if len(sizes) != len(strides):
        raise ValueError(f"anchors.sizes: expected {len(strides)} levels, got {len(sizes)}")
    shapes = torch.stack([anchor_shapes(level, ratios) for level in sizes])
    return PriorGrid(shapes.round() if round_corners else shapes, strides, fit_grid=fit_grid)
