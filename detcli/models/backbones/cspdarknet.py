"""CSPDarknet-53 (CSPNet, arXiv 1911.11929; YOLOv4, arXiv 2004.10934) as a feature extractor.

Letters: B images, C channels, H and W pixels of the padded batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm
from detcli.weights.darknet import backbone_state
from detcli.weights.report import copy_state

if TYPE_CHECKING:
    from detcli.recipe.sections.models import yolov4

CHANNELS = (32, 64, 128, 256, 512, 1024)  # of the stem and the five stages
NUM_BLOCKS = (1, 2, 8, 8, 4)
DIVISOR = 8  # of all channels, at any width
FIRST_MAP = 2  # stages before the first one whose map is given out


class ConvMish(ConvNorm):
    """Convolution, norm, Mish (arXiv 1908.08681)."""

    def activate(self, y: Tensor) -> Tensor:
        return F.mish(y)


class DarkBlock(nn.Module):
    """1x1 to `hidden` channels and 3x3 back, added to the input."""

    def __init__(self, channels: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.reduce = ConvMish(channels, hidden, 1, norm=norm)
        self.expand = ConvMish(hidden, channels, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y: Tensor = x + self.expand(self.reduce(x))
        return y


class CSPStage(nn.Module):
    """Half the size; then two ways, one of them through the blocks, and a 1x1 over both.

    inner: channels of each way; hidden: inside the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        inner: int,
        hidden: int,
        num_blocks: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.down = ConvMish(in_channels, out_channels, 3, stride=2, norm=norm)
        self.skip = ConvMish(out_channels, inner, 1, norm=norm)
        self.enter = ConvMish(out_channels, inner, 1, norm=norm)
        self.blocks = nn.Sequential(*(DarkBlock(inner, hidden, norm) for _ in range(num_blocks)))
        self.leave = ConvMish(inner, inner, 1, norm=norm)
        self.merge = ConvMish(2 * inner, out_channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / 2, W / 2), sizes rounded up."""
        x = self.down(x)
        y = self.leave(self.blocks(self.enter(x)))
        merged: Tensor = self.merge(torch.cat([y, self.skip(x)], dim=1))
        return merged


class CSPDarknet(nn.Module):
    """Maps of strides 8, 16 and 32; `out_channels` are theirs; width: factor of all channels."""

    def __init__(self, *, width: float, norm: str) -> None:
        super().__init__()
        channels = [scaled(count, width) for count in CHANNELS]
        self.out_channels = tuple(channels[FIRST_MAP + 1 :])
        self.stem = ConvMish(3, channels[0], 3, norm=norm)
        self.stages = nn.ModuleList()
        for index, num_blocks in enumerate(NUM_BLOCKS):
            outputs = channels[index + 1]
            # the first stage does not halve its ways, but its block does
            inner = outputs if index == 0 else scaled(CHANNELS[index], width)
            hidden = channels[0] if index == 0 else inner
            self.stages.append(
                CSPStage(
                    channels[index],
                    outputs,
                    inner=inner,
                    hidden=hidden,
                    num_blocks=num_blocks,
                    norm=norm,
                )
            )
        for module in self.modules():
            if isinstance(module, ConvNorm):
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, DarkBlock):  # branches start at zero (arXiv 1706.02677)
                assert module.expand.norm is not None
                nn.init.zeros_(module.expand.norm.get_parameter("weight"))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, out_channels[i], H / 8 / 2^i, W / 8 / 2^i) of images (B, 3, H, W), sizes rounded
        up."""
        if images.device.type == "cpu":  # the fast layout there; on CUDA the recipe decides
            images = images.contiguous(memory_format=torch.channels_last)
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[FIRST_MAP:])


def scaled(channels: int, width: float) -> int:
    """`channels` times width, to the nearest multiple of 8."""
    return max(DIVISOR, round(channels * width / DIVISOR) * DIVISOR)


def build_cspdarknet(options: yolov4.CspDarknet, *, norm: str) -> CSPDarknet:
    """A CSPDarknet-53 with random weights (None) or the first ones of a Darknet file, such as
    yolov4.conv.137, trained on ImageNet.

    Raises CheckpointError when the file does not fit.
    """
    backbone = CSPDarknet(width=options.width, norm=norm)
    if options.weights is not None:
        state = backbone_state(Path(options.weights), backbone)
        copy_state(backbone, state, options.weights)
    return backbone
