"""Feature pyramid that is enlarged by CARAFE from its coarsest level on (arXiv 1905.02188).

Letters: B images, D channels of every level; level l has stride 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from detcli.layers.conv import Conv2d
from detcli.layers.upsample import Carafe
from detcli.models.necks.fpn import start

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import CarafeNeck

LEVELS = (2, 3, 4, 5, 6)


class CarafeFPN(nn.Module):
    """Laterals of C2 to C5 and a strided 3x3 convolution of C5 for P6, top-down sums from there
    on, and a 3x3 output for every level, as in MMDetection. (`FPN` makes P6 from P5 or C5 after the
    sums.) No norm and no other activation but inside CARAFE."""

    def __init__(self, in_channels: Sequence[int], options: CarafeNeck) -> None:
        super().__init__()
        out_channels = self.out_channels = options.out_channels
        self.strides = tuple(2**level for level in LEVELS)
        self.lateral = nn.ModuleList(Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.lateral.append(Conv2d(in_channels[-1], out_channels, 3, 2))
        self.output = nn.ModuleList(Conv2d(out_channels, out_channels, 3) for _ in LEVELS)
        start((*self.lateral, *self.output))
        self.upsample = nn.ModuleList(Carafe(out_channels) for _ in LEVELS[1:])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """P2 to P6 (B, D, h, w), finest first, from C2 to C5."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, [*maps, maps[-1]], strict=True)]
        for index, (finer, coarser) in reversed(list(enumerate(pairwise(merged)))):
            fine = self.upsample[index](coarser)
            # sides may be odd: the last row or column is left out
            finer.add_(fine[:, :, : finer.shape[-2], : finer.shape[-1]])
        return tuple(output(x) for output, x in zip(self.output, merged, strict=True))
