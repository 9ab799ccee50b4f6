"""Attention, deformable and dilated convolutions inside the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from detcli.layers.deform import DeformConv2d
from detcli.models.backbones.blocks import BasicBlock, BlockSettings, Bottleneck
from detcli.models.backbones.resnet import ResNet, build_resnet
from detcli.recipe.sections.blocks import Deformable
from detcli.recipe.sections.network import Backbone

PLAIN: dict[str, Any] = {
    "depth": 18,
    "style": "pytorch",
    "norm": "bn",
    "norm_eps": 1e-5,
    "norm_eval": True,
    "frozen_stages": 1,
    "attention": None,
    "dcn": None,
    "dilation": None,
    "units": "post",
    "weights": None,
}
SE = {"name": "se", "stages": (2, 3, 4), "reduction": 16, "fusion": "add"}
CBAM = {**SE, "name": "cbam"}
GC = {"name": "gc", "stages": (2, 3, 4), "reduction": 4, "fusion": "add"}
DCN = {"version": 2, "stages": (2, 3, 4), "groups": 1}
DCN_V1 = {**DCN, "version": 1}
# channels of the 3x3 convolutions, and blocks, of stages 2 to 4
WIDTHS, BLOCKS = (128, 256, 512), {18: (2, 2, 2), 50: (4, 6, 3)}


def backbone(**changes: Any) -> ResNet:
    torch.manual_seed(0)
    return build_resnet(Backbone(**{**PLAIN, **changes}))


def published(depth: int, file: Path) -> nn.Module:
    """torchvision's network with statistics of its own, its weights in a file."""
    torch.manual_seed(1)
    peer = get_model(f"resnet{depth}", weights=None).eval()
    for key, value in peer.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.7, 1.3)
        elif key.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    torch.save(peer.state_dict(), file)
    return peer


def peer_maps(peer: nn.Module, x: Tensor) -> list[Tensor]:
    x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
    maps = []
    for number in range(1, 5):
        x = getattr(peer, f"layer{number}")(x)
        maps.append(x)
    return maps


def assert_same_maps(model: ResNet, peer: nn.Module, size: tuple[int, int] = (64, 96)) -> None:
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for mine, want in zip(model.eval()(x), peer_maps(peer, x), strict=True):
            assert mine.shape == want.shape
            assert (mine - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize("depth", [18, 50])
def test_what_starts_as_nothing_starts_as_the_public_network(depth: int, tmp_path: Path) -> None:
    """Public weights find their places, and neither a fresh GC block nor fresh offsets show."""
    peer = published(depth, tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    assert_same_maps(backbone(depth=depth, weights=weights, attention=GC, dcn=DCN_V1), peer)


@pytest.mark.parametrize("changes", [{"attention": SE}, {"attention": CBAM}, {"dcn": DCN}], ids=str)
def test_public_weights_reach_all_other_layers(changes: dict[str, Any], tmp_path: Path) -> None:
    published(18, tmp_path / "weights.pth")
    weights = str(tmp_path / "weights.pth")
    plain = backbone(weights=weights).state_dict()
    full = backbone(weights=weights, **changes).state_dict()
    assert set(plain) < set(full)
    assert all(torch.equal(full[name], value) for name, value in plain.items())
    extra = set(full) - set(plain)
    part = "conv_offset" if "dcn" in changes else "attention"
    assert all(f".{part}." in name for name in extra)
    if part == "conv_offset":
        assert all((full[name] == 0).all() for name in extra)


def test_a_file_may_have_the_offsets(tmp_path: Path) -> None:
    published(18, tmp_path / "weights.pth")
    file = tmp_path / "dcn.pth"
    state = torch.load(tmp_path / "weights.pth")
    offsets = torch.randn(27, 256, 3, 3)
    state["layer3.1.conv2.conv_offset.weight"] = offsets  # MMDetection's name
    torch.save(state, file)
    loaded = backbone(weights=str(file), dcn=DCN).stages[2][1].conv2.conv
    assert torch.equal(loaded.conv_offset.weight, offsets)


@pytest.mark.parametrize(("depth", "stages"), [(18, (2, 4)), (50, (4,))])
def test_dilated_maps_are_those_of_a_dilated_torchvision(
    depth: int, stages: tuple[int, ...], tmp_path: Path
) -> None:
    peer = published(depth, tmp_path / "weights.pth")
    dilation = {"stages": stages, "rates": (1, 2, 5)}
    model = backbone(depth=depth, weights=str(tmp_path / "weights.pth"), dilation=dilation)
    for stage in stages:
        for number, block in enumerate(getattr(peer, f"layer{stage}")):
            conv = block.conv1 if depth == 18 else block.conv2
            rate = (1, 2, 5)[number % 3]
            conv.dilation = conv.padding = (rate, rate)
    assert_same_maps(model, peer)


def seen_by_one_cell(rates: list[int]) -> Tensor:
    """Which inputs (17, 17) the middle output of bottlenecks with these dilations depends on."""
    blocks = [Bottleneck(4, 1, 1, BlockSettings("bn", False, rate, None, None)) for rate in rates]
    stage = nn.Sequential(*blocks).eval()
    for parameter in stage.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 4, 17, 17, requires_grad=True)
    stage(x)[0, :, 8, 8].sum().backward()
    assert x.grad is not None
    return x.grad[0].sum(dim=0) > 0


@pytest.mark.parametrize("rates", [[1, 1, 1], [1, 2, 5], [2, 2, 2], [1, 2]])
def test_receptive_field(rates: list[int]) -> None:
    """A row of 1 + 2 x the sum of the dilations; hybrid rates leave no holes in it (HDC)."""
    seen = seen_by_one_cell(rates)
    rows = seen.any(dim=1).nonzero().flatten()
    assert (rows[0], rows[-1]) == (8 - sum(rates), 8 + sum(rates))
    side = 1 + 2 * sum(rates)
    share = seen.sum().item() / side**2
    if rates == [2, 2, 2]:
        assert share == pytest.approx(7**2 / 13**2)  # a grid: every second row and column
    else:
        assert share == 1


def test_strides_stay_with_dilation() -> None:
    maps = backbone(dilation={"stages": (3, 4), "rates": (2,)})(torch.randn(1, 3, 96, 64))
    assert [tuple(level.shape[2:]) for level in maps] == [(24, 16), (12, 8), (6, 4), (3, 2)]


def test_the_basic_block_dilates_its_first_and_deforms_its_second_convolution() -> None:
    settings = BlockSettings("bn", False, 3, Deformable(version=2, groups=2), None)
    block = BasicBlock(64, 128, 2, settings)
    assert block.conv1.conv.dilation == block.conv1.conv.padding == (3, 3)
    assert isinstance(block.conv2.conv, DeformConv2d)
    assert block.conv2.conv.dilation == (1, 1)
    assert block(torch.randn(1, 64, 10, 9)).shape == (1, 128, 5, 5)


def test_a_bottleneck_can_be_dilated_and_deformed_at_once() -> None:
    settings = BlockSettings("bn", False, 2, Deformable(version=1), None)
    plain = Bottleneck(64, 16, 2, settings._replace(deform=None)).eval()
    both = Bottleneck(64, 16, 2, settings).eval()
    missing, unexpected = both.load_state_dict(plain.state_dict(), strict=False)
    assert all(".conv_offset." in name for name in missing)
    assert not unexpected
    x = torch.randn(1, 64, 10, 9)
    torch.testing.assert_close(both(x), plain(x))


def count(**changes: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in backbone(**changes).parameters())


@pytest.mark.parametrize("depth", [18, 50])
def test_what_the_blocks_cost(depth: int) -> None:
    plain = count(depth=depth)
    inside = [width for width, n in zip(WIDTHS, BLOCKS[depth], strict=True) for _ in range(n)]
    ends = [width * (4 if depth == 50 else 1) for width in inside]
    se = sum(2 * c * (c // 16) + c // 16 + c for c in ends)
    assert count(depth=depth, attention=SE) - plain == se
    cbam = sum(2 * c * (c // 16) + 2 * 7 * 7 + 2 for c in ends)
    assert count(depth=depth, attention=CBAM) - plain == cbam
    gc = sum(c + 1 + 2 * c * (c // 4) + c // 4 + c + 2 * (c // 4) for c in ends)
    assert count(depth=depth, attention=GC) - plain == gc
    assert count(depth=depth, dcn=DCN) - plain == sum(27 * (9 * c + 1) for c in inside)
    assert count(depth=depth, dcn=DCN_V1) - plain == sum(18 * (9 * c + 1) for c in inside)
    assert count(depth=depth, dilation={"stages": (4,), "rates": (2,)}) == plain


def test_attention_is_between_the_last_norm_and_the_sum() -> None:
    """Doubling the branch by hand there changes the output as it should."""

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    settings = BlockSettings("bn", False, 1, None, None)
    for block in (BasicBlock(16, 16, 1, settings), Bottleneck(64, 16, 1, settings)):
        block.eval()
        x = torch.randn(1, 16 if isinstance(block, BasicBlock) else 64, 5, 6)
        branch = block.conv2(block.conv1(x))
        if isinstance(block, Bottleneck):
            branch = block.conv3(branch)
        block.attention = Double()
        torch.testing.assert_close(block(x), (2 * branch + x).relu())
