"""Attention blocks: the references' numbers, the papers' sums as loops, sizes and starts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.attention import (
    ConvBlockAttention,
    GlobalContext,
    SqueezeExcitation,
    build_attention,
)
from tests.fixtures.blocks import BlockFixture

NAMES = (
    (r"^conv_mask\.", "mask."),
    (r"^channel_add_conv\.", "add."),
    (r"^channel_mul_conv\.", "multiply."),
    (r"^(?:channel\.)?fc1\.", "reduce."),
    (r"^(?:channel\.)?fc2\.", "expand."),
    (r"^spatial\.conv\.bn\.", "spatial.norm."),
    (r"^spatial\.conv\.conv\.", "spatial.conv."),
)
BLOCKS = [  # of 32 channels
    ("gc_add", {"name": "gc", "reduction": 4, "fusion": "add"}),
    ("gc_mul_add", {"name": "gc", "reduction": 4, "fusion": "mul_add"}),
    ("cbam", {"name": "cbam", "reduction": 16, "fusion": "add"}),
    ("se_timm", {"name": "se", "reduction": 4, "fusion": "add"}),
    ("se_torchvision", {"name": "se", "reduction": 4, "fusion": "add"}),
]


def ours(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(("name", "keywords"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_equals_the_reference(name: str, keywords: dict[str, object]) -> None:
    fixture = BlockFixture(name)
    part = build_attention(channels=32, **keywords)
    part.load_state_dict({ours(key): value for key, value in fixture.state.items()})
    errors = fixture.errors(part, ours)
    assert errors.pop("output") < 1e-5
    if name.startswith("gc"):  # a soft-max does not see a bias: both are rounding errors of zero
        del errors["mask.bias"]
        assert part.mask.bias.grad.abs() < 1e-5
        assert abs(fixture.arrays["grad/conv_mask.bias"]) < 1e-5
    assert max(errors.values()) < 1e-4, errors


def randomised(part: nn.Module) -> nn.Module:
    """In double precision, and without zeros at the end."""
    torch.manual_seed(0)
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.5)
    return part.double().eval()


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def dense(layer: nn.Module, values: Tensor) -> Tensor:
    """A 1x1 convolution applied to one vector, without a convolution."""
    weight = layer.get_parameter("weight")[:, :, 0, 0]
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return weight @ values + (0 if bias is None else bias)


def se_by_the_paper(part: SqueezeExcitation, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    for image in range(x.shape[0]):
        mean = torch.stack([channel.sum() / channel.numel() for channel in x[image]])
        gate = 1 / (1 + torch.exp(-dense(part.expand, dense(part.reduce, mean).clamp(min=0))))
        for channel in range(x.shape[1]):
            y[image, channel] = gate[channel] * x[image, channel]
    return y


def cbam_by_the_paper(part: ConvBlockAttention, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    conv, norm = part.spatial.conv, part.spatial.norm
    assert isinstance(norm, nn.BatchNorm2d)
    height, width = x.shape[2:]
    for image in range(x.shape[0]):
        codes = [
            dense(part.expand, dense(part.reduce, pooled).clamp(min=0))
            for pooled in (x[image].mean(dim=(1, 2)), x[image].flatten(1).max(dim=1).values)
        ]
        gated = x[image] * torch.sigmoid(codes[0] + codes[1])[:, None, None]
        planes = torch.stack([gated.mean(dim=0), gated.max(dim=0).values])
        for row in range(height):
            for column in range(width):
                total = torch.zeros((), dtype=x.dtype)
                for i in range(7):
                    for j in range(7):
                        at = row + i - 3, column + j - 3
                        if 0 <= at[0] < height and 0 <= at[1] < width:
                            total = total + conv.weight[0, :, i, j] @ planes[:, at[0], at[1]]
                assert norm.running_var is not None
                assert norm.running_mean is not None
                total = (total - norm.running_mean[0]) / (norm.running_var[0] + norm.eps).sqrt()
                gate = torch.sigmoid(total * norm.weight[0] + norm.bias[0])
                y[image, :, row, column] = gated[:, row, column] * gate
    return y


def gc_by_the_paper(part: GlobalContext, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    for image in range(x.shape[0]):
        cells = x[image].flatten(1).T  # a row per cell
        shares = torch.stack([dense(part.mask, cell)[0].exp() for cell in cells])
        context = (shares / shares.sum()) @ cells
        result = x[image]
        for transform, multiplies in ((part.multiply, True), (part.add, False)):
            if transform is None:
                continue
            squeeze, norm, _, expand = transform
            code = dense(squeeze, context)
            code = (code - code.mean()) / (code.var(unbiased=False) + norm.eps).sqrt()
            code = code * norm.weight.flatten() + norm.bias.flatten()
            term = dense(expand, code.clamp(min=0))[:, None, None]
            result = result * torch.sigmoid(term) if multiplies else result + term
        y[image] = result
    return y


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
@pytest.mark.parametrize("fusion", ["se", "cbam", "add", "mul_add"])
def test_equals_a_plain_loop(fusion: str, size: tuple[int, int]) -> None:
    x = features(2, 8, *size)
    if fusion == "se":
        part = randomised(SqueezeExcitation(8, 4))
        want = se_by_the_paper(part, x)
    elif fusion == "cbam":
        part = randomised(ConvBlockAttention(8, 2))
        nn.init.uniform_(part.spatial.norm.running_var, 0.5, 2)
        want = cbam_by_the_paper(part, x)
    else:
        part = randomised(GlobalContext(8, 4, fusion=fusion))
        want = gc_by_the_paper(part, x)
    torch.testing.assert_close(part(x), want)


@pytest.mark.parametrize(
    ("name", "fusion", "wanted"),
    [
        ("se", "add", lambda c, s: 2 * c * s + s + c),
        ("cbam", "add", lambda c, s: 2 * c * s + 2 * 49 + 2),
        ("gc", "add", lambda c, s: c + 1 + 2 * c * s + s + c + 2 * s),
        ("gc", "mul_add", lambda c, s: c + 1 + 2 * (2 * c * s + s + c + 2 * s)),
    ],
)
@pytest.mark.parametrize(("channels", "reduction"), [(64, 16), (256, 4)])
def test_number_of_parameters(
    name: str, fusion: str, wanted: object, channels: int, reduction: int
) -> None:
    part = build_attention(name, channels, reduction=reduction, fusion=fusion)
    got = sum(parameter.numel() for parameter in part.parameters())
    assert callable(wanted)
    assert got == wanted(channels, channels // reduction)


def test_starts() -> None:
    x = torch.randn(2, 32, 6, 5)
    add = build_attention("gc", 32, reduction=4, fusion="add")
    assert torch.equal(add(x), x)
    both = build_attention("gc", 32, reduction=4, fusion="mul_add")
    torch.testing.assert_close(both(x), x / 2)
    for name in ("se", "cbam"):  # as published, no zeros: gates are somewhere between 0 and 1
        gate = build_attention(name, 32, reduction=4, fusion="add")(x) / x
        assert gate.min() > 0
        assert gate.max() < 1


@pytest.mark.parametrize("name", ["se", "cbam", "gc"])
def test_the_input_stays_as_it_is(name: str) -> None:
    """The map may be needed elsewhere; nothing is written into it."""
    part = build_attention(name, 16, reduction=4, fusion="mul_add")
    x = torch.randn(2, 16, 4, 4, requires_grad=True)
    before = x.detach().clone()
    part(x).sum().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected se, cbam, gc, got eca"):
        build_attention("eca", 32, reduction=4, fusion="add")
