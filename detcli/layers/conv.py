"""Convolutions, and convolution, norm and activation as one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from detcli.layers.norm import build_norm, fixed_affine

AnyConv = TypeVar("AnyConv", bound=nn.Conv2d)


class Conv2d(nn.Conv2d):
    """nn.Conv2d with "same" padding that is right for maps of one column, too."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride), sizes rounded up."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with another weight and bias of the same shapes."""
        padding = self.padding
        if x.shape[3] == 1 and x.device.type == "cpu":
            # Only the middle column of the kernel meets such a map. With stride 2 in bfloat16,
            # oneDNN's gradient of the other columns is whatever lies in memory.
            middle = weight.shape[3] // 2
            weight, padding = weight[..., middle : middle + 1], (self.dilation[0] * middle, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups=self.groups)


def zero_bias(conv: nn.Conv2d) -> None:
    """Let the bias of a convolution, if it has one, begin at 0."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_normal(conv: AnyConv) -> AnyConv:
    """The convolution with weights of deviation 0.01 around 0 and a bias of 0."""
    nn.init.normal_(conv.weight, std=0.01)
    zero_bias(conv)
    return conv


def init_xavier(conv: AnyConv) -> AnyConv:
    """The convolution with Xavier's weights (uniform) and a bias of 0."""
    nn.init.xavier_uniform_(conv.weight)
    zero_bias(conv)
    return conv


class Kernel(NamedTuple):
    """A square kernel: its side in cells, how far apart these are, and groups of channels."""

    side: int
    dilation: int = 1
    groups: int = 1


class ConvNorm(nn.Module):
    """Convolution with "same" padding, then a norm, then a ReLU where asked, or what a kind of its
    own has in its place (`activate`).

    A batch norm on running statistics is folded into the convolution's weight and bias, in
    training too: neither a pass over the activations nor a saved copy of them remains, and the
    gradients of weight, scale and shift stay exact.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Kernel,
        *,
        stride: int = 1,
        norm: str = "none",
        bias: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        side, dilation, groups = Kernel(kernel) if isinstance(kernel, int) else kernel
        self.conv = Conv2d(
            in_channels, out_channels, side, stride, groups=groups, dilation=dilation, bias=bias
        )
        self.norm = build_norm(norm, out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride), sizes rounded up."""
        affine = fixed_affine(self.norm)
        if affine is not None:
            scale, shift = affine
            bias = self.conv.bias
            weight = _scaled(self.conv.weight, scale)
            shift = shift if bias is None else shift + bias * scale
            with saved_tensors_hooks(*_recompute(weight, self.conv.weight, scale)):
                y = self.conv.convolve(x, weight, shift)
        else:
            y = self.conv(x)
            if self.norm is not None:
                y = self.norm(y)
        return self.activate(y) if self.relu else y

    def activate(self, y: Tensor) -> Tensor:
        """(B, C_out, *, *) to the same shape, in place where that can be."""
        return F.relu_(y)


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """`weight` (O, C, k, k) with output channel o multiplied by scale[o]."""
    return weight * scale[:, None, None, None]


def _recompute(
    folded: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Callable[[Tensor], Tensor | None], Callable[[Tensor | None], Tensor]]:
    """Hooks that drop a folded weight after the forward pass and make it anew in the backward.

    Otherwise a second copy of the backbone's weights would be alive at the peak of memory.
    """
    place, fixed = folded.data_ptr(), (weight.detach(), scale.detach())

    def pack(saved: Tensor) -> Tensor | None:
        return None if saved.data_ptr() == place else saved

    def unpack(kept: Tensor | None) -> Tensor:
        return _scaled(*fixed) if kept is None else kept

    return pack, unpack
