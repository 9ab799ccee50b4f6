"""The priors of a detector for whatever maps its pyramid makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.ops.priors import Priors, anchor_shapes, grid_priors

if TYPE_CHECKING:
    from detcli.recipe.sections.models.guided import Guidance
    from detcli.recipe.sections.priors import Anchors


class PriorGrid(nn.Module):
    """Anchor shapes of each level, repeated on the grid of its map.

    shapes (L, A, 4): anchor corners around the origin; strides: pixels per cell of each level;
    offset: where in its cell a point lies, as a share of the stride; fit_grid: the points of a
    map are floor(image side / map side) pixels apart, as in torchvision, instead of the stride.
    """

    shapes: Tensor

    def __init__(
        self, shapes: Tensor, strides: Sequence[int], *, offset: float = 0.0, fit_grid: bool = False
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
            map_sizes, self.strides, self.shapes.float().unbind(), offset=self.offset, steps=steps
        )


def square_shapes(strides: Sequence[int], scale: float) -> Tensor:
    """Shapes (L, 1, 4) of one square anchor per cell with sides of scale x stride pixels."""
    half = torch.tensor(strides, dtype=torch.float32)[:, None, None] * scale / 2
    return torch.cat([-half, -half, half, half], dim=2)


def build_anchors(strides: Sequence[int], options: Anchors) -> PriorGrid:
    """Anchors of every size and ratio in each cell, centred on the cell's corner.

    options: sizes in pixels per level, None: those of `octave_sizes`; round_corners: to whole
    pixels. Raises ValueError when `sizes` has another number of levels than the pyramid.
    """
    sizes = options.sizes or octave_sizes(strides, options)
    if len(sizes) != len(strides):
        raise ValueError(f"anchors.sizes: expected {len(strides)} levels, got {len(sizes)}")
    shapes = torch.stack([anchor_shapes(level, options.ratios) for level in sizes])
    if options.round_corners:
        shapes = shapes.round()
    return PriorGrid(shapes, strides, fit_grid=options.fit_grid)


def octave_sizes(strides: Sequence[int], options: Anchors | Guidance) -> list[list[float]]:
    """Sides in pixels for each level: base_scale x stride x 2^(i / scales_per_octave)."""
    steps = options.scales_per_octave
    octave = [2 ** (step / steps) for step in range(steps)]
    return [[stride * options.base_scale * scale for scale in octave] for stride in strides]
