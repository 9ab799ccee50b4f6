"""VGG-16 of SSD against torchvision's layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from detcli.errors import CheckpointError
from detcli.models.backbones.vgg import build_vgg16
from detcli.recipe.sections.models.ssd import VggBackbone
from tests.models.small_ssd import batch, small, some_targets, thin  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


def torchvision_features() -> nn.Sequential:
    """VGG-16 without its classifier."""
    torch.manual_seed(1)
    features = make_layers(cfgs["D"], batch_norm=False)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, std=0.1)
    return features


@pytest.mark.parametrize("prefix", ["features.", ""], ids=["torchvision", "reduced-fc"])
def test_conv4_3_is_torchvisions(prefix: str, tmp_path: Path) -> None:
    features = torchvision_features()
    state = {f"{prefix}{key}": value for key, value in features.state_dict().items()}
    has_fc = prefix == ""
    if has_fc:
        state |= {"31.weight": torch.randn(1024, 512, 3, 3), "31.bias": torch.randn(1024)}
        state |= {"33.weight": torch.randn(1024, 1024, 1, 1), "33.bias": torch.randn(1024)}
    else:
        state["classifier.0.weight"] = torch.full((4, 4), torch.nan)  # as torchvision leaves it
    file = tmp_path / "vgg.pth"
    torch.save(state, file)
    backbone = build_vgg16(VggBackbone(weights=str(file)))
    if has_fc:
        assert torch.equal(backbone.fc6.weight, state["31.weight"])
        assert torch.equal(backbone.fc7.bias, state["33.bias"])
    assert all(parameter.isfinite().all() for parameter in backbone.parameters())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        fine, coarse = backbone(x)
        torch.testing.assert_close(fine, features[:23](x), rtol=1e-4, atol=1e-4)
    assert coarse.shape == (1, 1024, 4, 4)
    assert (coarse >= 0).all()


def test_a_file_without_vgg_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.bias \[64\] is missing"):
        build_vgg16(VggBackbone(weights=str(file)))


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("frozen", [0, 2, 5])
def test_frozen_stages_do_not_learn(frozen: int) -> None:
    model = small({"backbone": {"frozen_stages": frozen}})
    sum(model.loss(model(batch()), some_targets()).values()).backward()
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        is_frozen = parts[:2] == ["backbone", "stages"] and int(parts[2]) < frozen
        assert parameter.requires_grad is not is_frozen, name
        assert (parameter.grad is None) is is_frozen, name
