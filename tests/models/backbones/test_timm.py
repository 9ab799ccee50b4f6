"""Networks of timm as backbones: maps, what is frozen, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detcli.engine.profile.macs import count_macs
from detcli.engine.run.build import build_model
from detcli.engine.train.announce import announce_blocks
from detcli.errors import CheckpointError, RecipeError, UsageError
from detcli.models.backbones.timm import TimmBackbone, build_timm
from detcli.recipe import Recipe, load_recipe
from detcli.recipe.sections import network as sections
from tests.models.backbones.test_blocks import published
from tests.models.specs import SMALL_CENTERNET, SMALL_TWO_STAGE, detector, target
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

timm = pytest.importorskip("timm", reason="timm is not installed")

KINDS = ("mobilenetv3_small_050", "convnext_atto")
NHWC = "mambaout_femto"  # keeps the channels last
OTHERS = [("faster_rcnn", SMALL_TWO_STAGE), ("centernet", SMALL_CENTERNET)]


def network(model: str = "resnet18", **changes: Any) -> TimmBackbone:
    torch.manual_seed(0)
    keywords = {"norm_eval": False, "frozen_stages": 0, "weights": None}
    return build_timm(sections.TimmBackbone(name="timm", model=model, **{**keywords, **changes}))


def tiny(folder: Path, backbone: dict[str, Any], **model: Any) -> Recipe:
    """A tiny ATSS on a network of timm."""
    path = write_tiny(folder, model=model)
    text = path.read_text().split("\n")
    start = next(i for i, line in enumerate(text) if line.startswith("  backbone:"))
    end = next(i for i in range(start + 1, len(text)) if not text[i].startswith("    "))
    text[start:end] = [f"  backbone: {backbone}".replace("'", "").replace("None", "null")]
    path.write_text("\n".join(text).replace("False", "false"))
    return load_recipe(path).recipe


@pytest.mark.parametrize("name", [*KINDS, NHWC])
def test_maps_are_those_of_timm(name: str) -> None:
    model = network(name).eval()
    peer = timm.create_model(name, features_only=True)
    indices = [peer.feature_info.reduction().index(stride) for stride in (4, 8, 16, 32)]
    peer = timm.create_model(name, features_only=True, out_indices=indices).eval()
    peer.load_state_dict(model.network.state_dict())
    images = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        for mine, want in zip(model(images), peer(images), strict=True):
            torch.testing.assert_close(mine, want.permute(0, 3, 1, 2) if name == NHWC else want)
    assert model.out_channels == tuple(peer.feature_info.channels())


@pytest.mark.parametrize("name", [*KINDS, "hrnet_w18_small"])
def test_gradients_reach_every_parameter_of_a_detector(name: str) -> None:
    """hrnet's map at stride 4 has layers of its own, which an FPN from stride 8 on does not see."""
    size = (64, 64)
    small = {"neck": {"out_channels": 64}, "head": {"num_convs": 1}}
    backbone = {"name": "timm", "model": name, "norm_eval": False, "frozen_stages": 0}
    model = detector("atss", small, {"backbone": backbone}, num_classes=3)
    for targets in ([target([[8, 8, 40, 50]], [1], size), target([], [], size)],):
        losses = model.loss(model(torch.randn(2, 3, *size)), targets)
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    idle = [key for key, p in model.named_parameters() if not p.requires_grad]
    assert all(".incre_modules.0." in key or ".fuse_layers.0." in key for key in idle)
    assert bool(idle) == (name == "hrnet_w18_small")


@pytest.mark.parametrize(("name", "small"), OTHERS)
def test_in_detectors_of_other_kinds(name: str, small: dict[str, Any]) -> None:
    backbone = {"name": "timm", "model": "mobilenetv3_small_050", "frozen_stages": 0}
    model = detector(name, {**small, "backbone": backbone}, num_classes=3)
    targets = [target([[8, 8, 40, 50]], [1], (64, 64))]
    losses = model.loss(model(torch.randn(1, 3, 64, 64), targets), targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("frozen_stages", [0, 1, 3, 4])
def test_frozen_stages_are_those_of_the_resnet_here(frozen_stages: int) -> None:
    model = network(frozen_stages=frozen_stages).train()
    wanted = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    frozen = wanted[: 2 + frozen_stages] if frozen_stages else []
    for key, parameter in model.network.named_parameters():
        assert parameter.requires_grad == (key.split(".")[0] not in frozen), key
    for key, part in model.network.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.training == (key.split(".")[0] not in frozen), key


def test_norm_eval_fixes_every_batch_norm() -> None:
    model = network(norm_eval=True).train()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert not any(part.training for part in norms)


def test_building_leaves_the_statistics_alone() -> None:
    norms = [part for part in network().modules() if isinstance(part, nn.BatchNorm2d)]
    assert all((part.running_mean == 0).all() and part.num_batches_tracked == 0 for part in norms)


def test_weights_of_a_file(tmp_path: Path) -> None:
    """timm's ResNet-18 has torchvision's names, its classifier too."""
    published(18, tmp_path / "weights.pth")
    model = network(weights=str(tmp_path / "weights.pth"))
    state = torch.load(tmp_path / "weights.pth")
    own = model.network.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    del state["layer4.1.conv2.weight"]
    torch.save(state, tmp_path / "other.pth")
    wanted = r"other\.pth: not weights of timm's resnet18: has no layer4\.1\.conv2\.weight"
    with pytest.raises(CheckpointError, match=wanted):
        network(weights=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"missing\.pth: no such file"):
        network(weights=str(tmp_path / "missing.pth"))


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network\nand more")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", offline)
    wanted = (
        r"cannot get timm's weights of resnet18 \(no network\): put model\.safetensors of "
        r"https://huggingface\.co/timm/resnet18\.a1_in1k somewhere and set model\.backbone\.weights"
    )
    with pytest.raises(CheckpointError, match=wanted) as raised:
        network(weights="imagenet")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("resnet19", r"timm has no network 'resnet19'; did you mean resnet"),
        ("resnet18.a9_in1k", r"no weights tagged 'a9_in1k'; it has a1_in1k"),
        ("vit_tiny_patch16_224", r"maps at strides 4, 8, 16 and 32, but timm's .* has strid"),
        ("swin_tiny_patch4_window7_224", r"cannot read an image of 64 x 96 \(.*\)"),
    ],
)
def test_what_cannot_be_a_backbone(model: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        network(model)
    assert "\n" not in str(raised.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'detcli\[timm\]'") as raised:
        network()
    assert raised.value.exit_code == 2


def test_keys_of_the_resnet_are_refused() -> None:
    overrides = ["model.backbone={name: timm, model: resnet18, depth: 18}"]
    with pytest.raises(RecipeError, match=r"model\.backbone\.depth: unknown key"):
        load_recipe("atss_r50", overrides)


def test_the_log_says_what_it_is_and_which_images_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"name": "timm", "model": "resnet18", "weights": None, "frozen_stages": 0}
    recipe = tiny(tmp_path, given)
    model = build_model(recipe, 2)
    lines: list[str] = []
    announce_blocks(recipe, model, lines.append)
    assert lines == ["backbone: timm's resnet18, 64, 128, 256, 512 channels at strides 4 to 32"]
    model.backbone.mean_std = ((127.5,) * 3, (58.395, 57.12, 57.375))
    announce_blocks(recipe, model, lines.append)
    assert lines[2].startswith("data.mean is [123.675, 116.28, 103.53], but the weights of timm's")
    assert lines[2].endswith("were made with [127.5, 127.5, 127.5]; set data.mean to these")
    assert len(lines) == 3  # its std is the same


def test_macs_and_checkpoint(tmp_path: Path) -> None:
    """As many multiply-adds as the same network here, and the same outputs from saved weights."""
    images = torch.randn(1, 3, 64, 96)
    given = {"name": "timm", "model": "resnet18", "weights": None, "frozen_stages": 0}
    recipe = tiny(tmp_path, given)
    model = build_model(recipe, 2).eval()
    here = load_recipe(write_tiny(tmp_path)).recipe
    assert count_macs(model, images).total == count_macs(build_model(here, 2), images).total
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(9)
    other = build_model(recipe, 2).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        for a, b in zip(model(images).boxes, other(images).boxes, strict=True):
            assert torch.equal(a, b)
