"""Each block trick in each detector: a forward and a backward pass, and its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.attention import ConvBlockAttention, GlobalContext, SqueezeExcitation
from detcli.layers.deform import DeformConv2d
from detcli.layers.dropout import Dropout
from detcli.layers.norm import InstanceNorm2d
from detcli.models import build_detector
from detcli.recipe import load_recipe
from detcli.types import Target
from tests.models.specs import target
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

CANVAS = (64, 64)
DETECTORS = ("retinanet", "fcos", "atss")
# What the trick puts into a detector of depth 18 with one convolution per tower: a kind of module,
# how many more of them there are than without, and how many parameters more
SQUEEZED = [(width, width // 16) for width in (128, 256, 512) for _ in range(2)]
SE = sum(2 * c * s + s + c for c, s in SQUEEZED)
CBAM = sum(2 * c * s + 2 * 49 + 2 for c, s in SQUEEZED)
GC = sum(c + 1 + 2 * c * (c // 4) + c // 4 + c + 2 * (c // 4) for c, _ in SQUEEZED)
ADDED: dict[str, tuple[type[nn.Module], int, int | None]] = {
    "se": (SqueezeExcitation, 6, SE),
    "cbam": (ConvBlockAttention, 6, CBAM),
    "gc": (GlobalContext, 6, GC),
    "dcn": (DeformConv2d, 6, sum(27 * (9 * c + 1) for c, _ in SQUEEZED)),
    "dcn-v1": (DeformConv2d, 6, sum(18 * (9 * c + 1) for c, _ in SQUEEZED)),
    "norm-gn": (nn.GroupNorm, 2, 2 * (2 * 64 - 64)),  # scale and shift for the bias
    "norm-bn": (nn.BatchNorm2d, 2, 2 * (2 * 64 - 64)),
    "norm-ln": (nn.GroupNorm, 2, 2 * (2 * 64 - 64)),
    "norm-in": (InstanceNorm2d, 2, 2 * (2 * 64 - 64)),
    "dropout": (Dropout, 2, 0),
    "dropout-gaussian": (Dropout, 2, 0),
    "dropout-uniform": (Dropout, 2, 0),
}
# Every trick once, together with what it can be combined with
TOGETHER = [
    ("se", "norm-gn", "dropout-gaussian"),
    ("cbam", "dcn-v1", "norm-in", "dropout-uniform"),
    ("gc", "dcn", "dilation", "norm-ln", "dropout"),
    ("norm-bn",),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small maps on shared cores: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def detector(name: str, tricks: Sequence[str], folder: Path) -> nn.Module:
    """A small one without norms in its head, unless a trick says otherwise."""
    small = {"name": name, "head": {"num_convs": 1, "norm": "none"}}
    recipe = load_recipe(write_tiny(folder, model=small), tricks=tricks).recipe
    torch.manual_seed(0)
    return build_detector(**recipe.model.model_dump(), num_classes=3)


def images() -> Tensor:
    return torch.randn(2, 3, *CANVAS, generator=torch.Generator().manual_seed(3))


def some_targets() -> list[Target]:
    boxes = [[10, 12, 40, 60], [30, 20, 60, 50]]
    return [target(boxes, [0, 2], CANVAS), target([[20, 3, 60, 60]], [1], CANVAS)]


def no_targets() -> list[Target]:
    return [target([], [], CANVAS), target([], [], (32, 64))]


def test_no_trick_is_left_out() -> None:
    assert sorted(trick for tricks in TOGETHER for trick in tricks) == sorted([*ADDED, "dilation"])


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("tricks", TOGETHER, ids="+".join)
def test_losses_are_finite_and_reach_every_parameter(
    tricks: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    model = detector(name, tricks, tmp_path)
    outputs = model(images())
    raw = [level for field in outputs[:-1] for level in field if isinstance(level, Tensor)]
    for targets in (some_targets(), no_targets()):
        losses = model.loss(outputs, targets)
        assert all(value.isfinite() for value in losses.values())
        total = sum(losses.values())
        grads = torch.autograd.grad(total, raw, retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads)
    # `raw` is all that the losses see of the network: once is enough to know the rest
    total.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("trick", ADDED)
def test_what_the_trick_adds(trick: str, tmp_path: Path) -> None:
    kind, wanted, parameters = ADDED[trick]
    for name in DETECTORS:
        with torch.device("meta"):
            plain, model = detector(name, [], tmp_path), detector(name, [trick], tmp_path)
        counts = [sum(isinstance(part, kind) for part in one.modules()) for one in (plain, model)]
        assert counts[1] - counts[0] == wanted
        sizes = [sum(p.numel() for p in one.parameters()) for one in (plain, model)]
        assert sizes[1] - sizes[0] == parameters


@pytest.mark.parametrize("trick", ["se", "cbam", "gc", "dcn", "norm-bn"])
def test_checkpoint_round_trip(trick: str, tmp_path: Path) -> None:
    model, other = (detector("atss", [trick], tmp_path) for _ in range(2))
    torch.manual_seed(5)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.02 * torch.rand(value.shape))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        first, second = model.eval()(images()), other.eval()(images())
    for a, b in zip(first.class_logits, second.class_logits, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("trick", "name"),
    [("dropout", "retinanet"), ("dropout-gaussian", "fcos"), ("dropout-uniform", "atss")],
)
def test_noise_comes_after_every_norm_and_only_in_training(
    trick: str, name: str, tmp_path: Path
) -> None:
    model = detector(name, [trick, "norm-bn"], tmp_path)
    for tower in (model.head.class_tower, model.head.box_tower):
        kinds = [type(part) for part in tower.modules()]
        assert kinds[-1] is Dropout
        assert kinds.count(nn.BatchNorm2d) == 1
    model.eval()
    with torch.no_grad():
        first, second = model(images()), model(images())
        assert torch.equal(first.class_logits[0], second.class_logits[0])
        for part in model.modules():
            if isinstance(part, Dropout):
                part.train()
        noisy = model(images())
    for field in ("class_logits", "boxes"):
        assert not torch.equal(getattr(noisy, field)[0], getattr(first, field)[0])
