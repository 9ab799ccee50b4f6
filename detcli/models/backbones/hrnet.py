"""HRNet, the backbone that keeps a fine map from beginning to end (arXiv 1904.04514, HRNetV2).

Letters: B images, C channels of the finest map; H and W sides of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.layers.conv import ConvNorm
from detcli.layers.norm import set_eps, use_running_statistics
from detcli.models.backbones.blocks import BasicBlock, BlockSettings, Bottleneck
from detcli.weights.files import read_state
from detcli.weights.names import hrnet_key
from detcli.weights.report import copy_state

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import HrBackbone

STEM_CHANNELS = 64
NUM_BLOCKS = 4  # of the first stage, and of every branch
NUM_MODULES = (1, 4, 3)  # of the second, third and fourth stage
# The authors' ImageNet weights by width, as MMDetection keeps them.
PUBLISHED = "https://download.openmmlab.com/pretrain/third_party/hrnetv2_w{}.pth"
PUBLISHED_NAMES = {18: "18-00eb2006", 32: "32-dc9eeb4f", 40: "40-ed0b031c", 48: "48-d2186c55"}
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


class HRModule(nn.Module):
    """Blocks on every branch, then each branch receives the sum of all, brought to its grid: finer
    maps by strided 3x3 convolutions, coarser ones by a 1x1 convolution and nearest neighbours."""

    def __init__(self, channels: Sequence[int], norm: str) -> None:
        super().__init__()
        settings = BlockSettings(norm, False, 1, None, None)
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1, settings) for _ in range(NUM_BLOCKS)))
            for width in channels
        )
        self.fuse = nn.ModuleList(
            nn.ModuleList(
                _bridge(channels, source, target, norm) for source in range(len(channels))
            )
            for target in range(len(channels))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, C * 2^i, H / 4 / 2^i, W / 4 / 2^i) per branch, to the same shapes."""
        own = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, bridges in zip(own, self.fuse, strict=True):
            assert isinstance(bridges, nn.ModuleList)
            size = (target.shape[-2], target.shape[-1])
            terms = [_on_grid(bridge(x), size) for bridge, x in zip(bridges, own, strict=True)]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """Four maps at strides 4, 8, 16 and 32, all of them as deep as the finest.

    width: channels of the finest map, twice as many for each coarser one; norm_eval: batch norms
    use their running statistics in training too. `out_channels` are those of the four maps.
    """

    def __init__(self, *, width: int, norm: str, norm_eval: bool) -> None:
        super().__init__()
        self.norm_eval = norm_eval
        self.out_channels = tuple(width * 2**level for level in range(4))
        self.stem = nn.Sequential(
            ConvNorm(3, STEM_CHANNELS, 3, stride=2, norm=norm),
            ConvNorm(STEM_CHANNELS, STEM_CHANNELS, 3, stride=2, norm=norm),
        )
        settings = BlockSettings(norm, False, 1, None, None)
        wide = STEM_CHANNELS * Bottleneck.expansion
        inputs = (STEM_CHANNELS, *[wide] * (NUM_BLOCKS - 1))
        self.first = nn.Sequential(
            *(Bottleneck(channels, STEM_CHANNELS, 1, settings) for channels in inputs)
        )
        self.transitions, self.stages = nn.ModuleList(), nn.ModuleList()
        before: tuple[int, ...] = (wide,)
        for count, num_modules in enumerate(NUM_MODULES, start=2):
            channels = self.out_channels[:count]
            self.transitions.append(_transition(before, channels, norm))
            self.stages.append(nn.ModuleList(HRModule(channels, norm) for _ in range(num_modules)))
            before = channels
        for module in self.modules():
            if isinstance(module, ConvNorm):
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps (B, C * 2^i, H / 4 / 2^i, W / 4 / 2^i) of images (B, 3, H, W)."""
        if images.device.type == "cpu":  # the fast layout there; on CUDA the recipe decides
            images = images.contiguous(memory_format=torch.channels_last)
        maps = [self.first(self.stem(images))]
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            assert isinstance(transition, nn.ModuleList)
            assert isinstance(stage, nn.ModuleList)
            # a new branch begins at the coarsest map
            sources = [*maps, *[maps[-1]] * (len(transition) - len(maps))]
            maps = [layer(x) for layer, x in zip(transition, sources, strict=True)]
            for module in stage:
                maps = module(maps)
        return tuple(maps)

    def train(self, mode: bool = True) -> HRNet:
        """As nn.Module.train, but with norm_eval all batch norms stay fixed."""
        super().train(mode)
        if self.norm_eval:
            use_running_statistics(self)
        return self


def build_hrnet(options: HrBackbone) -> HRNet:
    """An HRNet with the weights of a file, with or without a classifier, in the names of its
    authors and of MMDetection, or random ones. Raises CheckpointError when they do not fit."""
    backbone = HRNet(width=options.width, norm=options.norm, norm_eval=options.norm_eval)
    set_eps(backbone, options.norm_eps)
    if options.weights is not None:
        _load(backbone, Path(options.weights), options.width)
    return backbone


def _load(backbone: HRNet, file: Path, width: int) -> None:
    if not file.is_file():
        raise CheckpointError(
            f"{file}: no such file (model.backbone.weights): put "
            f"{PUBLISHED.format(PUBLISHED_NAMES[width])} there, or set the key to its path, or to "
            "null for random weights"
        )
    state = {
        hrnet_key(key): value
        for key, value in read_state(file).items()
        if not key.startswith(CLASSIFIER)
    }
    copy_state(backbone, state, str(file))


def _bridge(channels: Sequence[int], source: int, target: int, norm: str) -> nn.Module:
    """What brings the map of branch `source` to the channels of `target`, and if that is coarser
    to its grid; all but the last of several steps keep the channels and have a ReLU."""
    inside, outside = channels[source], channels[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNorm(inside, outside, 1, norm=norm, relu=False)
    last = target - source - 1
    return nn.Sequential(
        *(
            ConvNorm(
                inside,
                outside if step == last else inside,
                3,
                stride=2,
                norm=norm,
                relu=step != last,
            )
            for step in range(target - source)
        )
    )


def _transition(before: Sequence[int], after: Sequence[int], norm: str) -> nn.ModuleList:
    """To one branch more: maps whose channels change pass a 3x3 convolution, the new one comes from
    the coarsest map by a strided one."""
    layers: list[nn.Module] = []
    for index, channels in enumerate(after):
        if index >= len(before):
            new = ConvNorm(before[-1], channels, 3, stride=2, norm=norm)
            layers.append(nn.Sequential(new))
        elif before[index] == channels:
            layers.append(nn.Identity())
        else:
            layers.append(ConvNorm(before[index], channels, 3, norm=norm))
    return nn.ModuleList(layers)


def _on_grid(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="nearest")
