"""ResNet (arXiv 1512.03385) as a feature extractor.

Letters: B images, H and W pixels of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm
from detcli.layers.norm import set_eps, use_running_statistics
from detcli.models.backbones.blocks import BasicBlock, BlockSettings, Bottleneck, NormReLU
from detcli.models.backbones.pretrained import load_backbone_weights

if TYPE_CHECKING:
    from detcli.recipe.sections.network import Backbone

STAGE_CHANNELS = (64, 128, 256, 512)
DC5_RATES = (1, 2, 2)  # dilations of the last stage's blocks: the first one keeps 1


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """The maps C2 to C5 of a ResNet, at strides 4, 8, 16 and 32.

    options: depth 18 | 34 | 50 | 101; style: see `Bottleneck`; norm_eval: batch norms use their
    running statistics in training too, their scales and shifts still learn; frozen_stages: 0 =
    nothing is frozen, 1 = stem and first stage, ... 4 = the whole backbone; attention, dcn,
    dilation: see `stage_settings`; units: "post", or "pre" with pre-activation (arXiv 1603.05027):
    there the norm and ReLU before a stage's first unit end the stage before, so that the maps have
    passed them. last_map: "c5"; "dc5": the last stage keeps the size of its input and is dilated
    instead (DETR, arXiv 2005.12872), so that C5 has stride 16; "c4": there is no last stage.
    `out_channels` are those of the maps.
    """

    def __init__(self, options: Backbone, *, last_map: str) -> None:
        super().__init__()
        block, counts = DEPTHS[options.depth]
        self.norm_eval = options.norm_eval
        self.frozen_stages = options.frozen_stages
        stage_channels = STAGE_CHANNELS[:3] if last_map == "c4" else STAGE_CHANNELS
        self.out_channels = tuple(channels * block.expansion for channels in stage_channels)
        self.stem = ConvNorm(3, 64, 7, stride=2, norm=options.norm)
        self.stages = nn.ModuleList()
        in_channels = 64
        for index, (channels, count) in enumerate(zip(stage_channels, counts, strict=False)):
            settings, rates = stage_settings(index + 1, options)
            dilated = last_map == "dc5" and index == 3
            rates = DC5_RATES if dilated else rates
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = 2 if number == 0 and index > 0 and not dilated else 1
                own = settings._replace(dilation=rates[number % len(rates)])
                blocks.append(block(in_channels, channels, stride, own, first=number == 0))
                in_channels = channels * block.expansion
            if options.units == "pre":
                blocks.append(NormReLU(in_channels, options.norm))
            self.stages.append(nn.Sequential(*blocks))
        set_eps(self, options.norm_eps)
        self._init_weights()
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """C2, C3, C4 and C5, unless that is left out, of images (B, 3, H, W): (B, out_channels[i],
        H / 4 / 2^i, W / 4 / 2^i)."""
        if images.device.type == "cpu":  # the fast layout there; on CUDA the recipe decides
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen_stages == 0):
            x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        maps = []
        for number, stage in enumerate(self.stages, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number > self.frozen_stages):
                x = stage(x)
            maps.append(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> ResNet:
        """As nn.Module.train, but frozen stages and, with norm_eval, all batch norms stay fixed."""
        super().train(mode)
        for part in [self] if self.norm_eval else self._frozen_parts():
            use_running_statistics(part)
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages == 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def _init_weights(self) -> None:
        """He initialisation (fan-out); each residual branch starts at zero (arXiv 1706.02677)."""
        for module in self.modules():
            if isinstance(module, ConvNorm):  # attention and offsets have drawn their own
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.conv2.norm if isinstance(module, BasicBlock) else module.conv3.norm
                if last is not None:
                    last.get_parameter("weight").data.zero_()


def stage_settings(stage: int, options: Backbone) -> tuple[BlockSettings, Sequence[int]]:
    """What the blocks of stage 1 to 4 are made of, and the dilations that they take in turn, which
    leave the stride as it is: attention, dcn and dilation where `stage` is among their `stages`."""
    attention, dcn, dilation = options.attention, options.dcn, options.dilation
    settings = BlockSettings(
        options.norm,
        options.style == "caffe",
        dilation=1,
        deform=dcn if dcn is not None and stage in dcn.stages else None,
        attention=attention if attention is not None and stage in attention.stages else None,
        pre_activation=options.units == "pre",
    )
    return settings, dilation.rates if dilation is not None and stage in dilation.stages else (1,)


def build_resnet(options: Backbone, *, last_map: str = "c5") -> ResNet:
    """A ResNet with the named weights: "imagenet" (torchvision's), a file, or None for random.

    Attention blocks and offsets, which no such weights have, start fresh. Raises CheckpointError
    when the weights cannot be had or do not fit.
    """
    backbone = ResNet(options, last_map=last_map)
    if options.weights is not None:
        load_backbone_weights(backbone, options.weights, depth=options.depth)
    return backbone
