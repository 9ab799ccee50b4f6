"""Convolution, norm and activation as one block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.norm import build_norm, fixed_affine


class ConvNorm(nn.Module):
    """Convolution with "same" padding, then a norm, then a ReLU where asked.

    A batch norm on running statistics is folded into the convolution's weight and bias, in
    training too: neither a pass over the activations nor a saved copy of them remains, and the
    gradients of weight, scale and shift stay exact.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        norm: str = "none",
        bias: bool = False,
        relu: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias
        )
        self.norm = build_norm(norm, out_channels, eps)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride), sizes rounded up."""
        affine = fixed_affine(self.norm)
        conv = self.conv
        if affine is not None:
            scale, shift = affine
            weight = conv.weight * scale[:, None, None, None]
            bias = shift if conv.bias is None else shift + conv.bias * scale
            y = F.conv2d(x, weight, bias, conv.stride, conv.padding)
        else:
            y = conv(x)
            if self.norm is not None:
                y = self.norm(y)
        return F.relu_(y) if self.relu else y
