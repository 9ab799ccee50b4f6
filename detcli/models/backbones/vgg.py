"""VGG-16 (arXiv 1409.1556) as SSD reads it (arXiv 1512.02325, section 3).

Letters: B images, H and W pixels of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, zero_bias
from detcli.models.backbones.pretrained import load_vgg_weights
from detcli.weights.names import VGG_STAGE_CONVS

if TYPE_CHECKING:
    from detcli.recipe.sections.models.ssd import VggBackbone

STAGE_CHANNELS = (64, 128, 256, 512, 512)
FC_CHANNELS = 1024  # 4096 in the classifier, of which SSD keeps a quarter
TAPPED_STAGE = 4  # conv4_3 ends it


class VGG16(nn.Module):
    """The maps of conv4_3 and fc7 after their ReLU, at strides 8 and 16.

    The fully connected layers are convolutions here: fc6 3x3 with dilation 6, which sees what the
    7x7 of the classifier saw, and fc7 1x1; the fifth pooling keeps the stride. Pools round sizes
    up. channels: of the five stages; fc_channels: of fc6 and fc7; frozen_stages: 0 = nothing is
    frozen, 1 = the first two convolutions, ... 5 = all thirteen; fc6 and fc7 always learn.
    `out_channels` are those of the two maps.
    """

    def __init__(self, *, channels: Sequence[int], fc_channels: int, frozen_stages: int) -> None:
        super().__init__()
        self.frozen_stages = frozen_stages
        self.out_channels = (channels[TAPPED_STAGE - 1], fc_channels)
        self.stages = nn.ModuleList()
        in_channels = 3
        for count, width in zip(VGG_STAGE_CONVS, channels, strict=True):
            inputs = [in_channels, *[width] * (count - 1)]
            self.stages.append(nn.ModuleList(Conv2d(before, width, 3) for before in inputs))
            in_channels = width
        self.fc6 = nn.Conv2d(in_channels, fc_channels, 3, padding=6, dilation=6)
        self.fc7 = Conv2d(fc_channels, fc_channels, 1)
        self._init_weights()
        for stage in self.stages[:frozen_stages]:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """conv4_3 (B, out_channels[0], H / 8, W / 8) and fc7 (B, out_channels[1], H / 16, W / 16)
        of images (B, 3, H, W), sizes rounded up."""
        if images.device.type == "cpu":  # the fast layout there; on CUDA the recipe decides
            images = images.contiguous(memory_format=torch.channels_last)
        x = tapped = images
        for number, stage in enumerate(self.stages, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number > self.frozen_stages):
                for conv in stage.children():
                    x = F.relu_(conv(x))
                if number == TAPPED_STAGE:
                    tapped = x
                if number < len(self.stages):
                    x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
        x = F.max_pool2d(x, 3, stride=1, padding=1)
        return tapped, F.relu_(self.fc7(F.relu_(self.fc6(x))))

    def _init_weights(self) -> None:
        """He initialisation (fan-out) of the thirteen, Xavier of fc6 and fc7, biases 0."""
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for fc in (self.fc6, self.fc7):
            nn.init.xavier_uniform_(fc.weight)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                zero_bias(module)


def build_vgg16(options: VggBackbone) -> VGG16:
    """A VGG-16 with the named weights: "imagenet" (torchvision's features-only port of the
    authors' file), a file, or None for random.

    Raises CheckpointError when the weights cannot be had or do not fit.
    """
    frozen = options.frozen_stages
    backbone = VGG16(channels=STAGE_CHANNELS, fc_channels=FC_CHANNELS, frozen_stages=frozen)
    if options.weights is not None:
        load_vgg_weights(backbone, options.weights)
    return backbone
