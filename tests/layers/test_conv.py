"""Folding a batch norm changes neither values nor gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, ConvNorm
from detcli.layers.norm import build_norm, use_running_statistics


def block(norm: str, *, bias: bool, stride: int = 1, kernel: int = 3) -> ConvNorm:
    torch.manual_seed(0)
    made = ConvNorm(64, 64, kernel, stride=stride, norm=norm, bias=bias)
    if isinstance(made.norm, nn.BatchNorm2d):
        nn.init.uniform_(made.norm.weight, 0.5, 1.5)
        nn.init.uniform_(made.norm.bias, -0.5, 0.5)
        nn.init.uniform_(made.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(made.norm.running_var, 0.5, 1.5)
    return made


def step(run: nn.Module, parts: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = run(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in parts.parameters() if p.requires_grad)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_folded_equals_two_layers(norm: str, kernel: int, stride: int, bias: bool) -> None:
    folded = block(norm, bias=bias, stride=stride, kernel=kernel)
    use_running_statistics(folded)
    apart = copy.deepcopy(folded).double()
    layers = nn.Sequential(
        nn.Conv2d(64, 64, kernel, stride, kernel // 2, bias=bias), apart.norm, nn.ReLU()
    ).double()
    layers[0].load_state_dict(apart.conv.state_dict())
    layers[1].eval()
    x = torch.randn(2, 64, 18, 21)
    mine = step(folded, folded, x)
    want = step(layers, layers, x.double())
    assert len(mine) == len(want)
    for a, b in zip(mine, want, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_a_folded_weight_is_not_kept_for_the_backward_pass() -> None:
    """Of the tensors that autograd keeps only inputs, weights and scales remain."""
    part = block("bn", bias=False)
    use_running_statistics(part)
    kept: list[int] = []
    plain = {p.data_ptr() for p in part.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape == part.conv.weight.shape and tensor.data_ptr() not in plain:
            kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = part(torch.randn(1, 64, 18, 18))
    y.sum().backward()
    assert kept == []


def test_training_statistics_are_used_where_they_should_be() -> None:
    part = block("bn", bias=False)
    before = part.norm.running_mean.clone()
    y = part(torch.randn(4, 64, 8, 8) + 3)
    assert not torch.equal(part.norm.running_mean, before)
    assert y.mean(dim=(0, 2, 3)).std() < 1  # normalised by the batch


@pytest.mark.parametrize("norm", ["bn", "sync_bn", "frozen_bn", "gn"])
def test_every_norm_makes_a_block(norm: str) -> None:
    part = block(norm, bias=False)
    y = part(torch.randn(2, 64, 8, 8))
    assert y.shape == (2, 64, 8, 8)
    assert y.min() >= 0


def test_frozen_norm_ignores_train() -> None:
    norm = build_norm("frozen_bn", 8)
    norm.train()
    assert not norm.training
    assert not any(p.requires_grad for p in norm.parameters())
    norm(torch.randn(4, 8, 3, 3) + 9)
    assert (norm.running_mean == 0).all()


def test_bad_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a multiple of 32 channels, got 20"):
        build_norm("gn", 20)
    with pytest.raises(ValueError, match=r"expected none, bn, frozen_bn, .*, got batch"):
        build_norm("batch", 32)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (1, 4)])
def test_maps_of_one_column(size: tuple[int, int], stride: int, kernel: int) -> None:
    conv = Conv2d(8, 16, kernel, stride)
    x = torch.randn(2, 8, *size)
    got = conv(x)
    want = nn.functional.conv2d(x, conv.weight, conv.bias, stride, kernel // 2)
    torch.testing.assert_close(got, want)
    for mine, other in zip(*map(gradients_of(conv), (got, want)), strict=True):
        torch.testing.assert_close(mine, other)


def gradients_of(conv: Conv2d) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda y: torch.autograd.grad(y.square().sum(), list(conv.parameters()))


def test_gradients_of_one_column_in_bfloat16_are_no_leftovers_of_memory() -> None:
    """oneDNN leaves the outer columns of a 3x3 kernel's gradient as they lie in memory."""
    conv = Conv2d(64, 64, 3, 2).bfloat16()
    x = torch.randn(2, 64, 4, 1, dtype=torch.bfloat16)
    for _ in range(5):
        spoiled = [torch.full((64 * 64 * 9 * n,), torch.nan) for n in (1, 2, 4)]
        del spoiled
        weight, _ = gradients_of(conv)(conv(x))
        assert weight[..., 0].abs().max() == 0
        assert weight.isfinite().all()
