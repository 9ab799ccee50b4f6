"""Kinds of convolution, CARAFE, P2 and implicit knowledge in every detector with a pyramid."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign.fcos import FCOSAssigner
from detcli.engine.run.build import build_model
from detcli.engine.run.start_weights import load_weights
from detcli.engine.train.announce import announce_blocks
from detcli.errors import RecipeError
from detcli.layers.conv import Conv2d
from detcli.layers.implicit import ImplicitConv2d
from detcli.layers.rep import RepConv
from detcli.layers.upsample import Carafe
from detcli.models import build_detector
from detcli.models.dense.prior_grid import PriorGrid, square_shapes
from detcli.models.fuse import fuse
from detcli.models.necks.fpn import FPN
from detcli.recipe import diff_recipes, load_recipe
from detcli.recipe.sections.network import Neck
from tests.models.specs import SMALL, detector, target
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

CANVAS = (64, 96)
SOME = [
    target([[10, 12, 40, 60], [50, 20, 94, 62], [8, 8, 14, 14]], [0, 4, 2], CANVAS),
    target([[20, 10, 60, 58]], [1], (64, 64)),
]
NONE = [target([], [], CANVAS), target([], [], (64, 64))]
REP: dict[str, Any] = {"neck": {"conv": "rep"}, "head": {"norm": "none", "conv": "rep"}}
CHANGES: dict[str, dict[str, Any]] = {
    "rep": REP,
    "depthwise": {"neck": {"conv": "depthwise"}, "head": {"conv": "depthwise"}},
    "grouped_shuffle": {"neck": {"conv": "grouped_shuffle"}, "head": {"conv": "grouped_shuffle"}},
    "bottleneck": {"neck": {"conv": "bottleneck"}, "head": {"norm": "none", "conv": "bottleneck"}},
    "carafe": {"neck": {"upsample": "carafe"}},
    "p2": {"neck": {"min_level": 2}},
    "implicit": {"head": {"implicit": True}},
}
each_detector = pytest.mark.parametrize("name", ["retinanet", "fcos", "atss"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *CANVAS, generator=torch.Generator().manual_seed(3))


@each_detector
@pytest.mark.parametrize("trick", CHANGES)
def test_losses_are_finite_and_reach_every_parameter(name: str, trick: str) -> None:
    model = detector(name, SMALL, CHANGES[trick], num_classes=5)
    for targets in (SOME, NONE):
        outputs = model(batch(), targets)
        losses = model.loss(outputs, targets)
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
    assert len(model.decode(outputs, [CANVAS, CANVAS])) == 2


@each_detector
@pytest.mark.parametrize(
    ("trick", "kind", "where"),
    [
        ("rep", RepConv, {"neck": 3, "head": 2}),
        ("carafe", Carafe, {"neck": 2}),
        ("implicit", ImplicitConv2d, {"head": 3}),
    ],
)
def test_the_blocks_are_where_they_should_be(
    name: str, trick: str, kind: type[nn.Module], where: dict[str, int]
) -> None:
    with torch.device("meta"):
        model = detector(name, SMALL, CHANGES[trick], num_classes=5)
    found = [path for path, module in model.named_modules() if isinstance(module, kind)]
    if name == "retinanet" and trick == "implicit":
        where = {"head": 2}  # no centre-ness
    counts = {part: sum(path.startswith(f"{part}.") for path in found) for part in where}
    assert counts == where
    assert len(found) == sum(where.values())


def shaken(model: nn.Module) -> nn.Module:
    """Norms and implicit vectors as if training had moved them far; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, ImplicitConv2d):
            nn.init.normal_(module.add)
            nn.init.normal_(module.multiply)
    return model.eval()


@each_detector
def test_fused_equals_unfused_and_a_plain_detector(name: str) -> None:
    model = shaken(detector(name, SMALL, REP, CHANGES["implicit"], num_classes=5))
    fused = copy.deepcopy(model)
    names = fuse(fused)
    assert {"neck.output.0", "head.class_tower.0.conv", "head.box"} <= set(names)
    assert not any(isinstance(m, RepConv | ImplicitConv2d) for m in fused.modules())
    plain = detector(name, SMALL, {"head": {"norm": "none"}}, num_classes=5).eval()
    plain.load_state_dict(fused.state_dict())
    with torch.no_grad():
        outputs = [m(batch()) for m in (model, fused, plain)]
    for field in outputs[0]._fields:
        for levels in zip(*(getattr(each, field) for each in outputs), strict=True):
            if not isinstance(levels[0], Tensor):
                continue
            before, after, again = levels
            assert (before - after).abs().max() <= 1e-4 * before.abs().max().clamp(min=1)
            assert torch.equal(after, again)
    assert fuse(fused) == []


def test_a_checkpoint_without_carafe_and_implicit_knowledge_fills_the_rest() -> None:
    plain = detector("atss", SMALL, num_classes=5)
    model = detector("atss", SMALL, CHANGES["carafe"], CHANGES["implicit"], num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = {"model": plain.state_dict(), "recipe": {"model": {"name": "atss"}}}
    said: list[str] = []
    load_weights(model, content, said.append)
    after = model.state_dict()
    for name, value in after.items():
        torch.testing.assert_close(value, plain.state_dict().get(name, before[name]))
    assert len(after) - len(plain.state_dict()) == 2 * 4 + 3 * 2
    assert said[0].startswith(f"weights: {len(plain.state_dict())} tensors loaded")


@pytest.mark.parametrize(
    ("trick", "lines"),
    [
        (
            "rep",
            [
                "neck outputs: rep convolutions",
                "head: rep convolutions",
                "model.head.conv rep: all levels share one set of running statistics",
            ],
        ),
        ("carafe", ["neck: 2 upsampling steps by CARAFE"]),
        ("implicit", ["implicit knowledge: around 3 predictions, never decayed"]),
        ("p2", []),
    ],
)
def test_the_log_says_what_is_on(trick: str, lines: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny(tmp_path, model=CHANGES[trick])).recipe
    said: list[str] = []
    with torch.device("meta"):
        announce_blocks(recipe, build_model(recipe, 4), said.append)
    assert len(said) == len(lines)
    assert all(a.startswith(b) for a, b in zip(said, lines, strict=True))


def pyramid(*, sizes: Sequence[tuple[int, int]], **changes: Any) -> tuple[FPN, list[Tensor]]:
    torch.manual_seed(0)
    keywords: dict[str, Any] = {
        "out_channels": 8,
        "min_level": 2,
        "max_level": 6,
        "extra_from": "p5",
        "extra_relu": False,
        "upsample": "nearest",
        "conv": "plain",
        "aspp": None,
    }
    neck = FPN([4, 5, 6, 7], Neck(**(keywords | changes)))
    maps = [torch.randn(2, width, *size) for width, size in zip((4, 5, 6, 7), sizes, strict=True)]
    return neck, maps


ODD = [(25, 38), (13, 19), (7, 10), (4, 5)]


@pytest.mark.parametrize("sizes", [ODD, [(32, 48), (16, 24), (8, 12), (4, 6)]])
def test_carafe_leaves_out_what_is_too_much(sizes: list[tuple[int, int]]) -> None:
    """A stride-2 convolution rounds up, so twice a coarse map is the finer one or 1 more."""
    neck, maps = pyramid(sizes=sizes, upsample="carafe")
    merged = [lateral(x) for lateral, x in zip(neck.lateral, maps, strict=True)]
    for index in (2, 1, 0):
        fine = neck.upsample[index](merged[index + 1])
        height, width = sizes[index]
        assert fine.shape[-2] - height in (0, 1)
        merged[index] = merged[index] + fine[:, :, :height, :width]
    want = [output(x) for output, x in zip(neck.output, merged, strict=True)]
    got = neck(maps)
    assert [tuple(level.shape[-2:]) for level in got[:4]] == sizes
    torch.testing.assert_close(list(got[:4]), want)


def test_nearest_fits_odd_maps() -> None:
    neck, maps = pyramid(sizes=ODD)
    top = neck.lateral[3](maps[3])
    want = neck.output[2](neck.lateral[2](maps[2]) + F.interpolate(top, size=ODD[2]))
    torch.testing.assert_close(neck(maps)[2], want)


@pytest.mark.parametrize("conv", ["rep", "depthwise", "grouped_shuffle", "bottleneck"])
def test_neck_outputs_are_of_the_kind(conv: str) -> None:
    neck, maps = pyramid(sizes=ODD, conv=conv)
    assert not any(isinstance(part, Conv2d) and part.groups == 1 for part in neck.output)
    assert all(type(part) is Conv2d for part in (*neck.lateral, *neck.extra))
    assert [tuple(level.shape[-2:]) for level in neck(maps)] == [*ODD, (2, 3)]


def test_p2_takes_the_range_below_p3() -> None:
    """FCOS: 64, 128 ... part the levels of strides 8 and up, and 32 those of 4 and 8."""
    strides = (4, 8, 16)
    grid = PriorGrid(square_shapes(strides, 1.0), strides, offset=0.5)
    priors = grid([torch.zeros(1, 1, 128 // s, 128 // s) for s in strides], (128, 128))
    boxes = torch.tensor([[40.0, 40, 60, 60], [20.0, 20, 100, 100], [0.0, 0, 128, 128]])
    matched = FCOSAssigner(None)(priors, boxes)
    for box, stride in ((0, 4), (1, 8), (2, 16)):
        assert set(priors.strides[matched == box].tolist()) >= {stride}
    assert set(priors.strides[matched == 0].tolist()) == {4}


@each_detector
def test_p2_has_anchors_and_scales_of_its_own(name: str) -> None:
    model = detector(name, SMALL, CHANGES["p2"], num_classes=5)
    grid = model.priors
    assert grid.strides == (4, 8, 16, 32, 64, 128)
    side = grid.shapes[:, 0, 2] - grid.shapes[:, 0, 0]
    torch.testing.assert_close(side[1:], side[:-1] * 2)
    if name != "retinanet":
        assert len(model.head.level_scales) == 6
    levels = model(batch(1)).boxes
    assert tuple(levels[0].shape[-2:]) == (CANVAS[0] // 4, CANVAS[1] // 4)


CONVS = ("rep-conv", "depthwise", "grouped-shuffle", "bottleneck")
TRICKS = {
    "rep-conv": {"model.neck.conv"},
    **{name: {"model.neck.conv", "model.head.conv"} for name in CONVS[1:]},
    "carafe": {"model.neck.upsample"},
    "p2": {"model.neck.min_level"},
    "implicit": {"model.head.implicit"},
}


@pytest.mark.parametrize("recipe", ["retinanet_r50", "fcos_r50_caffe", "atss_r50"])
@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_set_their_keys_and_nothing_else(trick: str, recipe: str) -> None:
    plain, loaded = load_recipe(recipe).recipe, load_recipe(recipe, tricks=[trick]).recipe
    assert {key for key, _, _ in diff_recipes(plain, loaded)} == TRICKS[trick]


def test_tricks_combine_where_they_can() -> None:
    load_recipe("atss_r50", tricks=["rep-conv", "carafe", "p2", "implicit"])
    for place, first in enumerate(CONVS):
        for second in CONVS[place + 1 :]:
            with pytest.raises(RecipeError, match=f"{first} and {second} exclude each other"):
                load_recipe("atss_r50", tricks=[first, second])


@pytest.mark.parametrize(
    ("recipe", "overrides", "reason"),
    [
        (
            "retinanet_r50_torchvision",
            ["model.neck.min_level=2"],
            r"model\.anchors\.sizes: expected a list for each of 6 levels, got 5",
        ),
        (
            "atss_r50",
            ["model.head.conv=rep"],
            r"model\.head\.norm: conv rep has batch norms of its own: expected none, got gn",
        ),
        (
            "atss_r50",
            ["model.head.conv=depthwise", "model.head.num_convs=0"],
            r"model\.head\.conv: there is no such convolution with num_convs 0",
        ),
        (
            "fcos_r50_caffe",
            ["model.head.conv=rep", "model.head.norm=none", "model.head.conv_bias=true"],
            r"model\.head\.conv_bias: conv rep has no bias",
        ),
        (
            "retinanet_r50",
            ["model.neck.conv=grouped_shuffle", "model.neck.out_channels=30"],
            r"model\.neck\.out_channels: conv grouped_shuffle: expected a multiple of 4, got 30",
        ),
        (
            "retinanet_r50",
            ["model.head.conv=bottleneck", "model.neck.out_channels=30"],
            r"model\.neck\.out_channels: head\.conv bottleneck needs a multiple of 4, got 30",
        ),
        (
            "atss_r50",
            ["model.head.conv=bottleneck", "model.neck.out_channels=128"],
            r"head\.conv bottleneck with norm gn needs a multiple of 128 from 256 on, got 128",
        ),
        (
            "atss_r50",
            ["model.neck.upsample=carafe", "model.neck.min_level=5"],
            r"model\.neck\.upsample: .* min_level 5",
        ),
        ("atss_r50", ["model.neck.conv=repp"], "did you mean rep"),
        (
            "atss_r50",
            ["model.neck.conv=rep", "data.batch_per_rank=1"],
            r"model\.neck\.conv: rep has batch norms, .* but data\.batch_per_rank is 1",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(recipe: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(recipe, overrides)


@pytest.mark.parametrize("trick", TRICKS)
def test_whole_detectors_have_the_size_that_the_blocks_say(trick: str) -> None:
    """Parameters of atss_r50 with the trick: three outputs of the neck and eight convolutions of
    the head, each with a group norm, on 256 channels."""
    counts = []
    for tricks in ((), (trick,)):
        recipe = load_recipe("atss_r50", ["model.backbone.weights=null"], tricks=tricks).recipe
        with torch.device("meta"):
            model = build_detector(recipe.model, num_classes=80)
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    d, quarter = 256, 64
    neck, head = 9 * d * d + d, 9 * d * d  # with a bias; without, before a norm
    instead = {  # of one convolution of the neck and of the head
        "rep-conv": (10 * d * d + 3 * 2 * d, head),
        "depthwise": (9 * d + d + d * d + d, 9 * d + 2 * d + d * d),
        "grouped-shuffle": (9 * d * d // 4 + d, 9 * d * d // 4),
        "bottleneck": (
            2 * d * quarter + 9 * quarter**2 + 2 * quarter + d,
            2 * d * quarter + 9 * quarter**2 + 2 * 2 * quarter,
        ),
    }
    more = {
        name: 3 * (one - neck) + 8 * (other - head) for name, (one, other) in instead.items()
    } | {
        "carafe": 2 * (d * 64 + 64 + 9 * 64 * 100 + 100),
        "p2": d * d + d + neck + 1,  # lateral, output, the level's scale
        "implicit": 3 * d + 80 + 4 + 1,
    }
    assert counts[1] - counts[0] == more[trick]
