"""Kinds of convolution: size, cost, what each computes, and that signal survives many of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detcli.layers.blocks import BLOCKS, GroupedShuffle, build_block, build_block_norm_relu
from detcli.layers.norm import use_running_statistics

D = 64
each_kind = pytest.mark.parametrize("kind", BLOCKS)


class Size(NamedTuple):
    """Weights of the convolutions, and biases and norms, of D channels."""

    weights: int
    rest: int


# Without norm, with bias; every weight is used once per cell.
SIZES = {
    "rep": Size(9 * D * D + D * D, 3 * 2 * D),
    "depthwise": Size(9 * D + D * D, 2 * D),
    "grouped_shuffle": Size(9 * D * D // 4, D),
    "bottleneck": Size(2 * D * D // 4 + 9 * (D // 4) ** 2, 2 * D // 4 + D),
}


@each_kind
def test_parameters_and_multiply_adds(kind: str) -> None:
    block = build_block(kind, D, norm="none", bias=True).eval()
    size = SIZES[kind]
    assert sum(p.numel() for p in block.parameters()) == size.weights + size.rest
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert block(torch.zeros(2, D, 3, 3)).shape == (2, D, 3, 3)
    assert counter.get_total_flops() // 2 == 2 * 9 * size.weights


def test_they_are_all_lighter_than_a_plain_one_but_rep() -> None:
    plain = 9 * D * D
    assert {kind for kind, size in SIZES.items() if size.weights < plain} == set(BLOCKS) - {"rep"}


@each_kind
def test_signal_survives_four_of_them(kind: str) -> None:
    """Unlike a fixed deviation of 0.01, which leaves 1e-7 of it behind four depth-wise ones."""
    torch.manual_seed(0)
    blocks = [build_block_norm_relu(kind, D, norm="none", bias=True) for _ in range(4)]
    tower = nn.Sequential(*blocks)
    x = torch.randn(2, D, 16, 16)
    y = tower(x)
    assert 0.1 < y.std() / x.std() < 10


@each_kind
@pytest.mark.parametrize("norm", ["none", "bn", "ln"])
def test_norms_are_between_the_convolutions_too(kind: str, norm: str) -> None:
    block = build_block_norm_relu(kind, D, norm=norm, bias=False)
    layers = nn.GroupNorm if norm == "ln" else nn.BatchNorm2d
    inner = {"rep": 3 if norm != "ln" else 0, "depthwise": 1, "grouped_shuffle": 0, "bottleneck": 2}
    found = [module for module in block.modules() if isinstance(module, layers)]
    own = 3 if kind == "rep" and norm == "none" else 0
    assert len(found) == (own if norm == "none" else inner[kind] + 1)
    y = block(torch.randn(2, D, 5, 7))
    assert y.shape == (2, D, 5, 7)
    assert y.min() >= 0


@pytest.mark.parametrize("bias", [False, True])
def test_depthwise_is_a_filter_per_channel_and_a_mixture(bias: bool) -> None:
    torch.manual_seed(0)
    block = build_block("depthwise", D, norm="none", bias=bias)
    x = torch.randn(2, D, 6, 8)
    thin, mix = block[0].conv, block[1]
    filtered = [F.conv2d(x[:, c : c + 1], thin.weight[c : c + 1], padding=1) for c in range(D)]
    joined = torch.cat(filtered, dim=1)
    assert (thin.bias is not None) == (mix.bias is not None) == bias
    want = torch.einsum("bdhw,od->bohw", joined.relu(), mix.weight[:, :, 0, 0])
    torch.testing.assert_close(block(x), want, atol=1e-5, rtol=1e-4)  # biases begin at 0


def test_shuffle_deals_every_group_to_every_group() -> None:
    """Channel g x 16 + i becomes i x 4 + g; and the gradients follow."""
    torch.manual_seed(0)
    block = GroupedShuffle(D, bias=True)
    x = torch.randn(2, D, 18, 20)
    parts = [
        F.conv2d(chunk, weight, bias, padding=1)
        for chunk, weight, bias in zip(
            x.chunk(4, 1), block.weight.chunk(4), block.bias.chunk(4), strict=True
        )
    ]
    want = torch.stack(parts, dim=2).flatten(1, 2)
    cotangent = torch.randn_like(want)
    gradients = [
        torch.autograd.grad((y * cotangent).sum(), list(block.parameters()))
        for y in (block(x), want)
    ]
    torch.testing.assert_close(block(x), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    # Behind two of them every input channel reaches every output channel; behind one, a quarter.
    x = torch.zeros(1, D, 5, 5).index_fill_(1, torch.tensor([0]), 1.0)
    nn.init.constant_(block.weight, 1.0)
    nn.init.zeros_(block.bias)
    once = block(x)
    reached = [(y[0, :, 2, 2] != 0).float().mean().item() for y in (once, block(once))]
    assert reached == [0.25, 1.0]


def test_wide_groups_are_not_taken_for_a_whole_convolution() -> None:
    """256 channels in 4 groups have kernels of 64 channels, enough for the faster algorithm."""
    torch.manual_seed(0)
    block = GroupedShuffle(256, bias=False)
    x = torch.randn(1, 256, 32, 32)
    want = F.channel_shuffle(F.conv2d(x, block.weight, padding=1, groups=4), 4)
    torch.testing.assert_close(block(x), want)


def test_bottleneck_narrows_to_a_quarter() -> None:
    block = build_block("bottleneck", D, norm="bn", bias=False)
    widths = [m.out_channels for m in block.modules() if isinstance(m, nn.Conv2d)]
    kernels = [m.kernel_size[0] for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert (widths, kernels) == ([D // 4, D // 4, D], [1, 3, 1])


@each_kind
def test_folded_norms_change_nothing(kind: str) -> None:
    """With running statistics the batch norms inside are folded, grouped convolutions too."""
    torch.manual_seed(0)
    block = build_block_norm_relu(kind, D, norm="bn", bias=True)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    use_running_statistics(block)
    x = torch.randn(2, D, 6, 8)
    folded = block(x)
    block.train()  # the norms inside are then applied, and here with the same statistics
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = partial(_by_running_statistics, module)
    torch.testing.assert_close(folded, block(x), atol=1e-5, rtol=1e-4)


def _by_running_statistics(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
