"""Pre-activation units: the paper's network told plainly, and what they can be combined with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.errors import RecipeError
from detcli.models.backbones.resnet import ResNet
from detcli.recipe import load_recipe
from tests.models.backbones.test_blocks import CBAM, DCN, GC, SE, backbone


def randomised(**changes: Any) -> ResNet:
    """In double precision, with statistics, scales and shifts that show."""
    model = backbone(units="pre", **changes).double()
    generator = torch.Generator().manual_seed(4)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low in ((part.weight, 0.5), (part.running_var, 0.5), (part.bias, -0.5)):
                values.data = low + torch.rand(values.shape, generator=generator).double()
            part.running_mean.uniform_(-0.3, 0.3, generator=generator)
    return model.eval()


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return (x * scale[:, None, None] + shift[:, None, None]).relu()


def conv(x: Tensor, part: nn.Conv2d) -> Tensor:
    side = part.kernel_size[0]
    return F.conv2d(x, part.weight, stride=part.stride, padding=side // 2)


def plain_network(model: ResNet, images: Tensor) -> list[Tensor]:
    """Figure 4 (e) of the paper; the unit that changes shape shares its first norm and ReLU with
    the shortcut, the first of all follows the stem's, and one more pair ends the network."""
    x = normed(conv(images, model.stem.conv), model.stem.norm)
    active = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage in model.stages:
        *units, end = stage
        for number, unit in enumerate(units):
            if number > 0:
                active = normed(x, unit.pre.norm)
            if unit.shortcut is not None:
                x = conv(active, unit.shortcut.conv)
            elif number == 0:
                x = active
            y = active
            names = ("conv1", "conv2", "conv3") if hasattr(unit, "conv3") else ("conv1", "conv2")
            for name in names[:-1]:
                part = getattr(unit, name)
                y = normed(conv(y, part.conv), part.norm)
            x = x + conv(y, getattr(unit, names[-1]).conv)
        active = normed(x, end.norm)
        maps.append(active)
    return maps


@pytest.mark.parametrize("depth", [18, 50])
def test_is_the_network_of_the_paper(depth: int) -> None:
    model = randomised(depth=depth)
    images = torch.randn(1, 3, 70, 50).double()
    with torch.no_grad():
        for mine, want in zip(model(images), plain_network(model, images), strict=True):
            torch.testing.assert_close(mine, want)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_has_the_convolutions_of_the_plain_network(depth: int) -> None:
    """Only norms differ: none on a shortcut, and one more at the end of each stage."""
    with torch.device("meta"):
        plain, pre = (backbone(depth=depth, units=units) for units in ("post", "pre"))

    def convs(model: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Conv2d)]

    assert convs(plain) == convs(pre)
    assert plain.out_channels == pre.out_channels


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": SE, "dcn": DCN},
        {"depth": 50, "attention": GC, "dcn": DCN, "style": "caffe"},
        {"attention": CBAM, "norm": "gn", "dilation": {"stages": (4,), "rates": (2,)}},
        {"frozen_stages": 2, "norm_eval": False, "norm": "frozen_bn"},
    ],
    ids=str,
)
def test_gradients_reach_what_is_not_frozen(changes: dict[str, Any]) -> None:
    model = backbone(units="pre", **{"frozen_stages": 0, "norm_eval": False, **changes})
    maps = model(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps[-1].square().sum().backward()
    frozen = changes.get("frozen_stages", 0)
    for key, parameter in model.named_parameters():
        stage = 0 if key.startswith("stem") else int(key.split(".")[1]) + 1
        learns = frozen == 0 or (stage > frozen and ".norm" not in key)
        assert parameter.requires_grad == learns
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize("weights", ["imagenet", "some.pth"])
def test_public_weights_are_refused(weights: str) -> None:
    overrides = ["model.backbone.units=pre", f"model.backbone.weights={weights}"]
    with pytest.raises(RecipeError, match=r"weights: there are none with pre-activation units"):
        load_recipe("atss_r50", overrides)
