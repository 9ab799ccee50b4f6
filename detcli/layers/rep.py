"""A convolution that trains as three branches and runs as one (RepVGG, arXiv 2101.03697)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm
from detcli.layers.norm import build_norm, fixed_affine


class RepConv(nn.Module):
    """3x3 and 1x1 convolution and, where shapes allow it, the identity, each with a batch norm.

    Their sum is not activated here. As in YOLOv7, no convolution has a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.wide = ConvNorm(in_channels, out_channels, 3, stride=stride, norm="bn", relu=False)
        self.point = ConvNorm(in_channels, out_channels, 1, stride=stride, norm="bn", relu=False)
        same_shape = in_channels == out_channels and stride == 1
        self.identity = build_norm("bn", in_channels) if same_shape else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride), sizes rounded up."""
        y: Tensor = self.wide(x) + self.point(x)
        return y if self.identity is None else y + self.identity(x)

    @torch.no_grad()
    def fused(self) -> Conv2d:
        """One 3x3 convolution with bias that equals this module in eval mode."""
        self.eval()
        branches = [
            (self.wide.conv.weight, self.wide.norm),
            (F.pad(self.point.conv.weight, (1, 1, 1, 1)), self.point.norm),
        ]
        if self.identity is not None:
            branches.append((_unit_kernel(self.wide.conv.weight), self.identity))
        conv = self.wide.conv
        one = Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride[0])
        one = one.to(conv.weight.device)
        assert one.bias is not None
        one.weight.zero_()
        one.bias.zero_()
        for kernel, norm in branches:
            affine = fixed_affine(norm)
            assert affine is not None, "a batch norm in eval mode is affine"
            one.weight += kernel * affine[0][:, None, None, None]
            one.bias += affine[1]
        return one


def _unit_kernel(like: Tensor) -> Tensor:
    """The 3x3 kernel (C, C, 3, 3) that changes nothing."""
    unit = torch.eye(like.shape[0], dtype=like.dtype, device=like.device)
    return F.pad(unit[:, :, None, None], (1, 1, 1, 1))
