"""Multiply-adds against closed forms; the published detectors are in test_size.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d, roi_align

from detcli.engine.profile.macs import count_macs
from tests.models.specs import detector


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "shape", "wanted"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 16, 10), 2 * 8 * 6 * 9 * 8 * 5),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 16, 10), 6 * 9 * 16 * 10),
        (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1), (1, 6, 4, 5), 6 * 8 * 16 * 4 * 5),
        (nn.Linear(12, 7), (3, 5, 12), 3 * 5 * 12 * 7),
        (Call(lambda x: x @ x.transpose(1, 2)), (3, 5, 12), 3 * 5 * 12 * 5),
        (nn.BatchNorm2d(4).eval(), (1, 4, 8, 8), 0),
    ],
    ids=["strided", "depthwise", "transposed", "linear", "product", "norm"],
)
def test_layers(layer, shape, wanted):
    assert count_macs(layer, torch.randn(shape)).total == wanted


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention(need_weights):
    # Four projections of 10 tokens, and two products of 10 x 10 tokens with 64 channels.
    layer = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    network = Call(lambda x: layer(x, x, x, need_weights=need_weights)[0])
    wanted = 4 * 10 * 64 * 64 + 2 * 10 * 10 * 64
    assert count_macs(network, torch.randn(1, 10, 64)).total == wanted
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_layer_of_a_transformer():
    layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True).eval()
    wanted = 4 * 10 * 64 * 64 + 2 * 10 * 10 * 64 + 2 * 10 * 64 * 128
    assert count_macs(layer, torch.randn(1, 10, 64)).total == wanted


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution(groups):
    offset, weight = torch.randn(2, 18, 7, 9), torch.randn(8, 6 // groups, 3, 3)
    network = Call(lambda x: deform_conv2d(x, offset.to(x), weight.to(x), padding=1))
    found = count_macs(network, torch.randn(2, 6, 7, 9))
    cells, product, samples = 2 * 7 * 9, 8 * 6 // groups * 9, 4 * 6 * 9
    assert found.total == cells * (product + samples)
    assert found.by_operation == {"deformable convolution": found.total}


def test_regions_with_a_fixed_number_of_samples():
    rois = torch.tensor([[0.0, 1, 1, 30, 40], [0, 5, 5, 9, 9], [0, 0, 0, 60, 60]])
    network = Call(lambda x: roi_align(x, rois.to(x), (7, 5), 0.5, 2, True))
    found = count_macs(network, torch.randn(1, 6, 32, 32))
    assert found.by_operation == {"RoI align": 3 * 6 * 7 * 5 * 2 * 2 * 4}


def test_regions_with_as_many_samples_as_cells_that_they_cover():
    sizes = [(29.0, 39.0), (4.0, 4.0), (60.0, 60.0)]  # width, height
    rois = torch.tensor([[0.0, 1, 1, 1 + width, 1 + height] for width, height in sizes])
    network = Call(lambda x: roi_align(x, rois[: (x[0, 0] > -9).sum()].to(x), 7, 0.25, 0, True))
    wanted = 0
    for width, height in sizes:  # as the operator's own loop chooses its samples
        across, down = (math.ceil(side * 0.25 / 7) for side in (width, height))
        wanted += 4 * 6 * 7 * 7 * across * down
    assert count_macs(network, torch.randn(1, 6, 32, 32)).total == wanted


def test_shapes_that_depend_on_values_are_counted_where_the_network_is():
    layer = nn.Linear(4, 3)
    network = Call(lambda x: layer(x[x[:, 0] > 0]))
    x = torch.tensor([[1.0], [-1.0], [2.0], [3.0]]).expand(4, 4)
    assert count_macs(network, x).total == 3 * 4 * 3


def test_parts_add_up():
    model = detector("atss", {"backbone": {"attention": {"name": "gc"}}}).eval()
    found = count_macs(model, torch.randn(1, 3, 64, 96))
    assert sum(found.by_module[name] for name in ("backbone", "neck", "head")) == found.total
    stages = [found.by_module[f"backbone.stages.{index}"] for index in range(4)]
    assert sum(stages) + found.by_module["backbone.stem"] == found.by_module["backbone"]
    assert sum(found.by_operation.values()) == found.total
    assert set(found.by_operation) == {"convolution", "matrix product"}
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
