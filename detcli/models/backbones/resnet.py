"""ResNet (arXiv 1512.03385) as a feature extractor.

Letters: B images, H and W pixels of the padded batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import ConvNorm
from detcli.layers.norm import use_running_statistics
from detcli.models.backbones.pretrained import load_backbone_weights

STAGE_CHANNELS = (64, 128, 256, 512)


class NormSettings(NamedTuple):
    """Which norm follows each convolution of the backbone."""

    name: str
    eps: float


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (depth 18 and 34)."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: NormSettings, *, caffe: bool
    ) -> None:
        super().__init__()
        name, eps = norm
        self.conv1 = ConvNorm(in_channels, channels, 3, stride=stride, norm=name, eps=eps)
        self.conv2 = ConvNorm(channels, channels, 3, norm=name, eps=eps, relu=False)
        self.shortcut = build_shortcut(in_channels, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.conv2(self.conv1(x)).add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (depth 50 and 101).

    caffe: the stride is in the first 1x1 (as published); otherwise in the 3x3 (torchvision).
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: NormSettings, *, caffe: bool
    ) -> None:
        super().__init__()
        name, eps = norm
        first, second = (stride, 1) if caffe else (1, stride)
        out_channels = channels * self.expansion
        self.conv1 = ConvNorm(in_channels, channels, 1, stride=first, norm=name, eps=eps)
        self.conv2 = ConvNorm(channels, channels, 3, stride=second, norm=name, eps=eps)
        self.conv3 = ConvNorm(channels, out_channels, 1, norm=name, eps=eps, relu=False)
        self.shortcut = build_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(self.conv3(self.conv2(self.conv1(x))).add_(shortcut))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """The four maps C2 to C5 of a ResNet, at strides 4, 8, 16 and 32.

    depth: 18 | 34 | 50 | 101; style: see `Bottleneck`; norm_eval: batch norms use their running
    statistics in training too, their scales and shifts still learn; frozen_stages: 0 = nothing
    is frozen, 1 = stem and first stage, ... 4 = the whole backbone. `out_channels` are those of
    C2 to C5.
    """

    def __init__(
        self,
        *,
        depth: int,
        style: str,
        norm: str,
        norm_eps: float,
        norm_eval: bool,
        frozen_stages: int,
    ) -> None:
        super().__init__()
        block, counts = DEPTHS[depth]
        settings = NormSettings(norm, norm_eps)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.out_channels = tuple(channels * block.expansion for channels in STAGE_CHANNELS)
        self.stem = ConvNorm(3, 64, 7, stride=2, norm=norm, eps=norm_eps)
        self.stages = nn.ModuleList()
        in_channels = 64
        for index, (channels, count) in enumerate(zip(STAGE_CHANNELS, counts, strict=True)):
            blocks = []
            for number in range(count):
                stride = 2 if index > 0 and number == 0 else 1
                blocks.append(
                    block(in_channels, channels, stride, settings, caffe=style == "caffe")
                )
                in_channels = channels * block.expansion
            self.stages.append(nn.Sequential(*blocks))
        self._init_weights()
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """C2, C3, C4, C5 of images (B, 3, H, W): (B, out_channels[i], H / 4 / 2^i, W / 4 / 2^i)."""
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
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.conv2.norm if isinstance(module, BasicBlock) else module.conv3.norm
                assert last is not None
                last.get_parameter("weight").data.zero_()


def build_shortcut(
    in_channels: int, out_channels: int, stride: int, norm: NormSettings
) -> ConvNorm | None:
    """A strided 1x1 convolution where shape changes, else None: the input itself."""
    if in_channels == out_channels and stride == 1:
        return None
    return ConvNorm(
        in_channels,
        out_channels,
        1,
        stride=stride,
        norm=norm.name,
        eps=norm.eps,
        relu=False,
    )


def build_resnet(
    *,
    depth: int,
    style: str,
    norm: str,
    norm_eps: float,
    norm_eval: bool,
    frozen_stages: int,
    weights: str | None,
) -> ResNet:
    """A ResNet with the named weights: "imagenet" (torchvision's), a file, or None for random.

    Raises CheckpointError when the weights cannot be had or do not fit.
    """
    backbone = ResNet(
        depth=depth,
        style=style,
        norm=norm,
        norm_eps=norm_eps,
        norm_eval=norm_eval,
        frozen_stages=frozen_stages,
    )
    if weights is not None:
        load_backbone_weights(backbone, weights, depth=depth)
    return backbone
