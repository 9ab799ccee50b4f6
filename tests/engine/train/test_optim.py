import copy

import pytest
import torch
from torch import nn

from detcli.engine.train.optim import build_optimizer, parameter_groups
from detcli.layers.attention import build_attention
from detcli.layers.deform import DeformConv2d
from detcli.layers.norm import NORMS, build_norm
from detcli.recipe.sections.optim import Optim

ALL = {"weight_decay": 0.1}  # and everything else as it is by default


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))


def groups(**changes):
    net = Net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(net, Optim(**ALL, **changes), 1.0)
        for parameter in group["params"]
    }


def test_every_parameter_once_and_alike_by_default():
    assert set(groups().values()) == {(1.0, 0.1)}
    assert len(groups()) == 8


def test_biases_and_norms_are_told_apart():
    found = groups(norm_decay=False, bias_decay=False, bias_lr_mult=2.0, backbone_lr_mult=0.5)
    assert found["backbone.0.weight"] == (0.5, 0.1)
    assert found["backbone.0.bias"] == (1.0, 0.0)
    assert found["backbone.1.weight"] == (0.5, 0.0)
    assert found["backbone.1.bias"] == (0.5, 0.0)  # a norm's shift is no bias
    assert found["head.0.weight"] == (1.0, 0.1)
    assert found["head.0.bias"] == (2.0, 0.0)
    assert found["head.1.weight"] == (1.0, 0.0)


def test_offsets_of_deformable_convolutions_have_no_bias_of_that_kind():
    net = DeformConv2d(4, 4, modulated=True)
    options = ALL | {"bias_lr_mult": 2.0, "bias_decay": False}
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(nn.Sequential(net), Optim(**options), 1.0)
        for parameter in group["params"]
    }
    assert found[id(net.bias)] == (2.0, 0.0)
    assert found[id(net.conv_offset.bias)] == found[id(net.conv_offset.weight)] == (1.0, 0.1)


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_one(name):
    norm = build_norm(name, 32)
    options = ALL | {"bias_lr_mult": 2.0, "bias_decay": False, "norm_decay": False}
    groups = parameter_groups(nn.Sequential(norm), Optim(**options), 1.0)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == (
        [] if name == "frozen_bn" else [(1.0, 0.0)]
    )


@pytest.mark.parametrize(("name", "num_norms"), [("se", 0), ("cbam", 1), ("gc", 1)])
def test_norms_inside_attention_are_norms(name, num_norms):
    part = build_attention(name, 32, reduction=4, fusion="add")
    options = ALL | {"norm_decay": False}
    groups = parameter_groups(part, Optim(**options), 1.0)
    spared = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert len(spared) == 2 * num_norms


def test_frozen_parameters_are_left_out():
    net = Net()
    net.backbone.requires_grad_(False)
    members = [p for group in parameter_groups(net, Optim(**ALL), 1.0) for p in group["params"]]
    assert len(members) == 4
    assert all(isinstance(member, torch.Tensor) and member.requires_grad for member in members)


def test_what_a_module_lists_does_not_decay():
    net = Net()
    net.head[0].undecayed = ("weight",)
    decays = {
        id(parameter): group["weight_decay"]
        for group in parameter_groups(net, Optim(**ALL), 1.0)
        for parameter in group["params"]
    }
    assert decays[id(net.head[0].weight)] == 0.0
    assert decays[id(net.head[0].bias)] == decays[id(net.backbone[0].weight)] == 0.1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_step_is_the_plain_one(name):
    """Also for weights whose memory is laid out channels last."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 1))
    model.to(memory_format=torch.channels_last)
    options = Optim(name=name, weight_decay=0.01, norm_decay=False, bias_lr_mult=2.0)
    other = copy.deepcopy(model)
    ours = build_optimizer(model, options, 1e-3)
    assert ours.defaults["fused"]
    plain_groups = parameter_groups(other, options, 1e-3)
    if name == "sgd":
        plain = torch.optim.SGD(plain_groups, lr=1e-3, momentum=0.9, foreach=False)
    else:
        plain = torch.optim.AdamW(plain_groups, lr=1e-3, foreach=False)
    for _ in range(5):
        images = torch.randn(2, 3, 9, 9, generator=generator)
        for net, optimizer in ((model, ours), (other, plain)):
            optimizer.zero_grad()
            net(images.to(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
