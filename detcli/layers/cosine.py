"""Convolution whose outputs are cosines.

Letters: B images, C channels in, O channels out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # least length of a patch: the cosine with a patch of zeros is 0


class CosineConv2d(nn.Module):
    """scale x cosine of the angle between each 3x3 patch of the input and each filter.

    A linear classifier of normalised features and weights (AM-Softmax, Wang et al. 2018) for
    classifiers that are convolutions: the feature vector is the patch, zeros where it leaves the
    map. No bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, scale: float) -> None:
        super().__init__()
        self.scale = scale
        # Of a filter only the direction counts; its length, here near 1, scales its gradient.
        weight = torch.empty(out_channels, in_channels, 3, 3)
        self.weight = nn.Parameter(nn.init.normal_(weight, std=(9 * in_channels) ** -0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H, W), from -scale to scale."""
        weight = F.normalize(self.weight.flatten(1).float(), dim=1).view_as(self.weight)
        dots = F.conv2d(x, weight, padding=1)
        squares = x.float().square().sum(dim=1, keepdim=True)
        length = (9 * F.avg_pool2d(squares, 3, stride=1, padding=1)).clamp(min=EPS**2).sqrt()
        return dots * (self.scale / length).to(dots.dtype)
