"""ResNet against torchvision's, and what is frozen."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from detcli.errors import CheckpointError
from detcli.models.backbones.resnet import ResNet, build_resnet
from detcli.models.necks.fpn import FPN


def backbone(depth: int = 18, **changes: object) -> ResNet:
    keywords = {
        "depth": depth,
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
    torch.manual_seed(0)
    return build_resnet(**{**keywords, **changes})


def peer_maps(peer: nn.Module, x: Tensor) -> list[Tensor]:
    x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
    maps = []
    for number in range(1, 5):
        x = getattr(peer, f"layer{number}")(x)
        maps.append(x)
    return maps


def with_random_norms(peer: nn.Module) -> nn.Module:
    for key, value in peer.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.7, 1.3)
        elif key.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
    return peer


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("norm_eps", [1e-5, 0.0])
def test_maps_are_torchvisions(depth: int, norm_eps: float, tmp_path: Path) -> None:
    if depth == 101 and norm_eps == 0.0:
        pytest.skip("one large model is enough")
    torch.manual_seed(1)
    peer = with_random_norms(get_model(f"resnet{depth}", weights=None).eval())
    file = tmp_path / "weights.pth"
    torch.save(peer.state_dict(), file)  # with its classifier, as published
    model = backbone(depth, weights=str(file), norm_eps=norm_eps).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for mine, want in zip(model(x), peer_maps(peer, x), strict=True):
            assert mine.shape == want.shape
            assert (mine - want).abs().max() < 1e-4 * want.abs().max()
    assert model.out_channels == tuple(level.shape[1] for level in model(x))


@pytest.mark.parametrize("last_map", ["dc5", "c4"])
def test_last_map_of_stride_16_is_torchvisions(last_map: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    dilated = [False, False, last_map == "dc5"]
    peer = get_model("resnet50", weights=None, replace_stride_with_dilation=dilated).eval()
    file = tmp_path / "weights.pth"
    torch.save(with_random_norms(peer).state_dict(), file)
    model = backbone(50, weights=str(file), last_map=last_map).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = model(x)
        wanted = peer_maps(peer, x)[: 4 if last_map == "dc5" else 3]
        for mine, want in zip(maps, wanted, strict=True):
            assert (mine - want).abs().max() < 1e-4 * want.abs().max()
    assert maps[-1].shape == (1, model.out_channels[-1], 6, 4)


def test_caffe_style_moves_the_stride() -> None:
    block = backbone(50, style="caffe").stages[1][0]
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((2, 2), (1, 1))
    block = backbone(50).stages[1][0]
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("frozen", [0, 1, 3, 4])
def test_frozen_stages_neither_learn_nor_count(frozen: int) -> None:
    model = backbone(norm_eval=False, frozen_stages=frozen).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    maps = model(torch.randn(2, 3, 64, 64))
    parts = [model.stem, *model.stages]
    fixed = parts[: frozen + 1] if frozen else []
    for part in parts:
        learns = not any(part is other for other in fixed)
        assert all(parameter.requires_grad is learns for parameter in part.parameters())
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            stage = -1 if name.startswith("stem") else int(name.split(".")[1])
            assert torch.equal(value, before[name]) is (stage < frozen and frozen > 0), name
    assert [level.requires_grad for level in maps] == [n > frozen for n in range(1, 5)]


def test_norm_eval_keeps_statistics_but_learns_scales() -> None:
    model = backbone(frozen_stages=0).train()
    before = model.stages[3][1].conv2.norm.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    norm = model.stages[3][1].conv2.norm
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().sum() > 0


def test_train_and_eval_and_train_again() -> None:
    model = backbone(norm_eval=False).train()
    model.eval().train()
    assert model.stages[1][0].conv1.norm.training
    assert not model.stages[0][0].conv1.norm.training


@pytest.mark.parametrize("norm", ["sync_bn", "gn", "frozen_bn", "ln", "in"])
def test_other_norms_run(norm: str) -> None:
    maps = backbone(norm=norm, norm_eval=False)(torch.randn(2, 3, 64, 64))
    assert [level.shape[1] for level in maps] == [64, 128, 256, 512]
    assert all(level.isfinite().all() for level in maps)


def test_imagenet_without_network_says_what_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_args: object, **_keywords: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        backbone(50, weights="imagenet")
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in message
    assert str(tmp_path / "checkpoints" / "resnet50-0676ba61.pth") in message
    assert "\n" not in message


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(get_model("resnet34", weights=None).state_dict(), file)
    with pytest.raises(CheckpointError, match="does not fit this model") as caught:
        backbone(18, weights=str(file))
    assert "\n" not in str(caught.value)


def pyramid(**changes: object) -> FPN:
    keywords = {
        "out_channels": 32,
        "min_level": 3,
        "max_level": 7,
        "extra_from": "p5",
        "extra_relu": False,
        "upsample": "nearest",
        "conv": "plain",
        "aspp": None,
    }
    return FPN((8, 16, 24, 40), **{**keywords, **changes})


def maps(height: int = 100, width: int = 68) -> list[Tensor]:
    """C2 to C5 whose sizes are no multiples of each other."""
    sizes = []
    for channels in (8, 16, 24, 40):
        sizes.append(torch.randn(1, channels, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return sizes


@pytest.mark.parametrize("min_level", [2, 3, 4])
@pytest.mark.parametrize("max_level", [5, 6, 7])
def test_pyramid_sizes(min_level: int, max_level: int) -> None:
    neck = pyramid(min_level=min_level, max_level=max_level)
    levels = neck(maps())
    assert neck.strides == tuple(2**level for level in range(min_level, max_level + 1))
    heights = {2: 100, 3: 50, 4: 25, 5: 13, 6: 7, 7: 4}
    assert [level.shape[2] for level in levels] == [
        heights[level] for level in range(min_level, max_level + 1)
    ]


def test_extra_levels() -> None:
    x = maps()
    for source in ("c5", "p5"):
        neck = pyramid(extra_from=source, extra_relu=True)
        *_, p5, p6, p7 = neck(x)
        torch.testing.assert_close(p6, neck.extra[0](x[-1] if source == "c5" else p5))
        torch.testing.assert_close(p7, neck.extra[1](p6.relu()))
    neck = pyramid()
    *_, p6, p7 = neck(x)
    assert p6.min() < 0  # else the ReLU would show nowhere
    torch.testing.assert_close(p7, neck.extra[1](p6))
