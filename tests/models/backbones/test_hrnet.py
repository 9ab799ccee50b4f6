"""HRNet and its pyramid, against the network written down a second time in its authors' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.models.backbones.hrnet import CLASSIFIER, build_hrnet
from detcli.models.necks.hrfpn import HRFPN
from detcli.weights import PublicWeights, convert_mmdetection, recognise_mmdetection
from detcli.weights.names import hrnet_key
from tests.models.specs import KEEP_ALL, detector, target

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

WIDTH = 18
CHANNELS = [18, 36, 72, 144]


class Reference:
    """The tensors by name, made when first asked for, and the forward pass as a list of steps."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def random(self, name: str, *shape: int, low: float, high: float) -> Tensor:
        values = torch.rand(*shape, generator=self.generator) * (high - low) + low
        return self.state.setdefault(name, values)

    def step(
        self, x: Tensor, conv: str, norm: str, out: int, kernel: int, stride: int = 1
    ) -> Tensor:
        """Convolution and norm."""
        limit = (3 / (x.shape[1] * kernel**2)) ** 0.5
        weight = self.random(
            f"{conv}.weight", out, x.shape[1], kernel, kernel, low=-limit, high=limit
        )
        x = F.conv2d(x, weight, stride=stride, padding=kernel // 2)
        mean = self.random(f"{norm}.running_mean", out, low=-0.1, high=0.1)
        var = self.random(f"{norm}.running_var", out, low=0.8, high=1.2)
        scale = self.random(f"{norm}.weight", out, low=0.5, high=1.0)
        shift = self.random(f"{norm}.bias", out, low=-0.1, high=0.1)
        self.state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
        return F.batch_norm(x, mean, var, scale, shift)

    def block(self, x: Tensor, name: str, out: int) -> Tensor:
        y = F.relu(self.step(x, f"{name}.conv1", f"{name}.bn1", out, 3))
        return F.relu(x + self.step(y, f"{name}.conv2", f"{name}.bn2", out, 3))

    def bottleneck(self, x: Tensor, name: str) -> Tensor:
        y = F.relu(self.step(x, f"{name}.conv1", f"{name}.bn1", 64, 1))
        y = F.relu(self.step(y, f"{name}.conv2", f"{name}.bn2", 64, 3))
        y = self.step(y, f"{name}.conv3", f"{name}.bn3", 256, 1)
        if x.shape[1] != 256:
            x = self.step(x, f"{name}.downsample.0", f"{name}.downsample.1", 256, 1)
        return F.relu(x + y)

    def exchange(self, maps: list[Tensor], name: str) -> list[Tensor]:
        fused = []
        for target_, own in enumerate(maps):
            total = own
            for source, x in enumerate(maps):
                here = f"{name}.fuse_layers.{target_}.{source}"
                if source > target_:
                    y = self.step(x, f"{here}.0", f"{here}.1", CHANNELS[target_], 1)
                    total = total + F.interpolate(y, scale_factor=2 ** (source - target_))
                y = x
                for step in range(target_ - source):
                    last = step == target_ - source - 1
                    out = CHANNELS[target_] if last else CHANNELS[source]
                    y = self.step(y, f"{here}.{step}.0", f"{here}.{step}.1", out, 3, 2)
                    if last:
                        total = total + y
                    else:
                        y = F.relu(y)
            fused.append(F.relu(total))
        return fused

    def __call__(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.step(images, "conv1", "bn1", 64, 3, 2))
        x = F.relu(self.step(x, "conv2", "bn2", 64, 3, 2))
        for number in range(4):
            x = self.bottleneck(x, f"layer1.{number}")
        fine = F.relu(self.step(x, "transition1.0.0", "transition1.0.1", CHANNELS[0], 3))
        new = F.relu(self.step(x, "transition1.1.0.0", "transition1.1.0.1", CHANNELS[1], 3, 2))
        maps = [fine, new]
        for stage, modules in ((2, 1), (3, 4), (4, 3)):
            if stage > 2:
                where = f"transition{stage - 1}.{stage - 1}.0"
                out = CHANNELS[stage - 1]
                maps.append(F.relu(self.step(maps[-1], f"{where}.0", f"{where}.1", out, 3, 2)))
            for module in range(modules):
                name = f"stage{stage}.{module}"
                for branch in range(stage):
                    for number in range(4):
                        block = f"{name}.branches.{branch}.{number}"
                        maps[branch] = self.block(maps[branch], block, CHANNELS[branch])
                maps = self.exchange(maps, name)
        return maps


@pytest.fixture(scope="module")
def reference() -> tuple[Reference, Tensor, list[Tensor]]:
    network = Reference()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network, images, network(images)


def test_maps_are_those_of_the_reference(
    reference: tuple[Reference, Tensor, list[Tensor]], tmp_path: Path
) -> None:
    network, images, want = reference
    file = tmp_path / "hrnetv2_w18.pth"
    classifier = {"classifier.weight": torch.zeros(2, 2), "incre_modules.0.0.x": torch.zeros(1)}
    torch.save({"state_dict": network.state | classifier}, file)
    backbone = build_hrnet(width=WIDTH, norm="bn", norm_eps=1e-5, norm_eval=True, weights=str(file))
    assert {hrnet_key(name) for name in network.state} == set(backbone.state_dict())
    assert backbone.out_channels == tuple(CHANNELS)
    with torch.no_grad():
        maps = backbone.train()(images)
    for mine, theirs in zip(maps, want, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())

    with pytest.raises(CheckpointError, match="does not fit this model"):
        build_hrnet(width=32, norm="bn", norm_eps=1e-5, norm_eval=True, weights=str(file))


@pytest.mark.parametrize("width", [18, 32])
def test_a_missing_file_says_where_it_can_be_had(width: int, tmp_path: Path) -> None:
    file = tmp_path / "hrnetv2.pth"
    with pytest.raises(CheckpointError, match=rf"hrnetv2\.pth: no such file .*_w{width}-\w+\.pth"):
        build_hrnet(width=width, norm="bn", norm_eps=1e-5, norm_eval=True, weights=str(file))


@pytest.mark.parametrize(("width", "published"), [(18, 21.30), (32, 41.23)])
def test_size_is_that_of_the_classifiers(width: int, published: float) -> None:
    """Tensors and parameters in millions of timm's ImageNet classifiers, less what comes after."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        peer = timm.create_model(f"hrnet_w{width}").state_dict()
        backbone = build_hrnet(
            width=width, norm="bn", norm_eps=1e-5, norm_eval=True, weights=None
        ).state_dict()
    counters = (".running_mean", ".running_var", "num_batches_tracked")
    total = sum(value.numel() for key, value in peer.items() if not key.endswith(counters))
    assert total / 1e6 == pytest.approx(published, abs=0.005)
    shapes = {
        hrnet_key(key): value.shape for key, value in peer.items() if not key.startswith(CLASSIFIER)
    }
    assert shapes == {key: value.shape for key, value in backbone.items()}


def test_odd_sides() -> None:
    """Coarser maps round up; what comes back from them fits the finer ones."""
    backbone = build_hrnet(width=18, norm="bn", norm_eps=1e-5, norm_eval=True, weights=None)
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 72, 100))
        levels = HRFPN(backbone.out_channels, out_channels=16)(maps)
    assert [tuple(x.shape[2:]) for x in maps] == [(18, 25), (9, 13), (5, 7), (3, 4)]
    assert [tuple(x.shape[2:]) for x in levels] == [(18, 25), (9, 12), (4, 6), (2, 3), (1, 1)]


def test_levels_are_means_of_one_map() -> None:
    neck = HRFPN((4, 8), out_channels=6)
    maps = [torch.randn(2, 4, 32, 48), torch.randn(2, 8, 16, 24)]
    levels = neck(maps)
    assert neck.strides == (4, 8, 16, 32, 64)
    larger = F.interpolate(maps[1], scale_factor=2, mode="bilinear", align_corners=False)
    joined = neck.reduce(torch.cat([maps[0], larger], dim=1))
    for index, level in enumerate(levels):
        side = 2**index
        cells = joined.unflatten(2, (-1, side)).unflatten(4, (-1, side)).mean(dim=(3, 5))
        torch.testing.assert_close(level, neck.output[index](cells))
    sum(level.sum() for level in levels).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def mmdetection_state(model: nn.Module, backbone: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors in MMDetection's names; those of the backbone are known."""
    names = {
        "neck.reduce": "neck.reduction_conv.conv",
        "rpn.conv": "rpn_head.rpn_conv",
        "rpn.class_logits": "rpn_head.rpn_cls",
        "rpn.box": "rpn_head.rpn_reg",
        "head.fcs.0": "roi_head.bbox_head.shared_fcs.0",
        "head.fcs.1": "roi_head.bbox_head.shared_fcs.1",
        "head.class_logits": "roi_head.bbox_head.fc_cls",
        "head.box": "roi_head.bbox_head.fc_reg",
        **{f"neck.output.{level}": f"neck.fpn_convs.{level}.conv" for level in range(5)},
    }
    state = {f"backbone.{name}": value for name, value in backbone.items()}
    for key, value in model.state_dict().items():
        if not key.startswith("backbone."):
            stem, kind = key.rsplit(".", 1)
            state[f"{names[stem]}.{kind}"] = value
    return state


def test_a_whole_detector_comes_in_and_learns(
    reference: tuple[Reference, Tensor, list[Tensor]],
) -> None:
    small: dict[str, Any] = {
        "backbone": {"name": "hrnet", "width": WIDTH},
        "neck": {"name": "hrfpn", "out_channels": 32},
        "rpn": {"proposals": {"train": {"max_per_image": 20}, "test": {"max_per_image": 20}}},
        "pooler": {"side": 3},
        "head": {"channels": 32},
    }
    network, images, _ = reference
    source = detector("faster_rcnn", small, num_classes=3)
    state = mmdetection_state(source, network.state)
    facts = recognise_mmdetection(PublicWeights(state, None), "memory")
    assert (facts.detector, facts.variant, facts.depth) == ("faster_rcnn", "hrnet18", None)
    model = detector("faster_rcnn", small, KEEP_ALL, num_classes=3)
    report = convert_mmdetection(state, model)
    assert set(report.names) == set(state)
    for key, value in source.state_dict().items():
        if not key.startswith("backbone."):
            assert torch.equal(model.state_dict()[key], value), key

    for targets in ([target([[8, 8, 40, 56]], [1], (64, 96))], [target([], [], (64, 96))]):
        losses = model.loss(model(images, targets), targets)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
