"""The decoder of CenterNet's DLA-34: iterative deep aggregation, up to stride 4 (arXiv
1904.07850, section 4 and figure 6).

Letters: B images, D channels, h and w cells of the finest map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.errors import UsageError
from detcli.layers.conv import ConvNorm, zero_bias
from detcli.layers.deform import DeformConv2d
from detcli.models.necks.deconv import STRIDES, bilinear_kernel

if TYPE_CHECKING:
    from detcli.recipe.sections.models.centernet import DlaUpNeck

LAST_USED = 3  # the coarsest of the four maps takes part in the first half only


class Aggregate(nn.Module):
    """Coarser maps, each projected, enlarged to the finest and added to what was before it.

    in_channels: of the maps, finest first; factors: by how much each but the first is enlarged.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, factors: Sequence[int], norm: str
    ) -> None:
        super().__init__()
        self.project, self.enlarge, self.node = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for inputs, factor in zip(in_channels[1:], factors, strict=True):
            self.project.append(_deform_norm(inputs, out_channels, norm))
            self.enlarge.append(_interpolation(out_channels, factor))
            self.node.append(_deform_norm(out_channels, out_channels, norm))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The first map as it is, then as many (B, out_channels, h, w) as there are others."""
        found = [maps[0]]
        for x, project, enlarge, node in zip(
            maps[1:], self.project, self.enlarge, self.node, strict=True
        ):
            found.append(node(enlarge(project(x)) + found[-1]))
        return found


class DLAUp(nn.Module):
    """Every map of the backbone brought to the next finer one, again and again, until one of each
    stride has seen all coarser ones; then the three finest of these brought together.

    All 3x3 convolutions are modulated deformable ones with a bias in addition to the norm.
    """

    strides = STRIDES

    def __init__(self, in_channels: Sequence[int], options: DlaUpNeck) -> None:
        super().__init__()
        norm = options.norm
        self.out_channels = in_channels[0]
        self.steps = nn.ModuleList()
        for level in reversed(range(len(in_channels) - 1)):
            width = in_channels[level]
            num_coarser = len(in_channels) - 1 - level
            # what an earlier step has made has the channels of the level above
            inputs = [width, *[in_channels[level + 1]] * num_coarser]
            self.steps.append(Aggregate(inputs, width, [2] * num_coarser, norm))
        self.last = Aggregate(
            in_channels[:LAST_USED],
            self.out_channels,
            [2**level for level in range(1, LAST_USED)],
            norm,
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """One map (B, in_channels[0], h, w) of stride 4, from four of strides 4 to 32.

        Raises UsageError when their sizes are not multiples of the coarsest one's.
        """
        fine, coarse = (tuple(level.shape[2:]) for level in (maps[0], maps[-1]))
        factor = 2 ** (len(maps) - 1)
        if fine != (coarse[0] * factor, coarse[1] * factor):
            raise UsageError(
                f"model.neck: dla_up needs images whose sides are multiples of 32, got about "
                f"{fine[0] * 4} x {fine[1] * 4}: set data.pad_multiple to 32"
            )
        # of each stride, the map that has seen all coarser ones
        whole, tail = [maps[-1]], [maps[-1]]
        for finer, step in zip(reversed(maps[:-1]), self.steps, strict=True):
            tail = step([finer, *tail])
            whole.insert(0, tail[-1])
        return (self.last(whole[:LAST_USED])[-1],)


def _deform_norm(in_channels: int, out_channels: int, norm: str) -> ConvNorm:
    block = ConvNorm(in_channels, out_channels, 3, norm=norm, bias=True)
    block.conv = DeformConv2d(in_channels, out_channels, modulated=True)
    nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
    zero_bias(block.conv)
    return block


def _interpolation(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Each channel by itself to `factor` times the size; at the start, bilinear."""
    conv = nn.ConvTranspose2d(
        channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False
    )
    with torch.no_grad():
        conv.weight.copy_(bilinear_kernel(2 * factor))
    return conv
