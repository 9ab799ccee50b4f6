"""Necks in detectors: losses, gradients, tricks, logs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detcli.engine.profile.macs import count_macs
from detcli.engine.run.build import build_model
from detcli.engine.train.announce import announce_blocks
from detcli.errors import RecipeError
from detcli.recipe import load_recipe
from detcli.weights.mmdetection import _rename as mmdetection_key
from tests.models.specs import FPN_DETECTORS, SMALL_OF, detector, target
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

SIZE = (70, 90)
UNET = {"name": "unet_pp", "deep_supervision": True}
PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("retinanet", {"name": "pan"}),
    ("atss", {"name": "bifpn", "repeats": 1}),
    ("fcos", {"name": "fpn", "upsample": "duc", "aspp": {"channels": 64}}),
    *((name, UNET) for name in ("fcos", "vfnet", "ga_retinanet")),
    ("faster_rcnn", {"name": "pan", "aspp": {"channels": 64}}),
    ("cascade_rcnn", {"name": "bifpn", "repeats": 1, "norm": "gn"}),
    ("ga_faster_rcnn", {"name": "unet_pp"}),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "neck"), PAIRS, ids=str)
def test_losses_are_finite_and_reach_every_parameter(name: str, neck: dict[str, Any]) -> None:
    model = detector(name, SMALL_OF[name], {"neck": neck}, num_classes=3)
    nothing = target([], [], SIZE)
    some = [target([[10, 12, 40, 60], [30, 20, 60, 50]], [0, 2], SIZE), nothing]
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    for targets in (some, [nothing] * 2):
        model.zero_grad()
        losses = model.loss(model(images, targets), targets)
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    with torch.no_grad():
        found = model.eval().decode(model(images), [SIZE, SIZE])
    assert len(found) == 2


@pytest.mark.parametrize("name", ["retinanet", "fcos", "atss"])
def test_deep_supervision_is_the_mean_over_pyramids(name: str) -> None:
    """Whose loss is a sum over all cells: the mean of the losses of each pyramid by itself."""
    neck = {**UNET, "min_level": 2, "max_level": 5}
    model = detector(name, SMALL_OF[name], {"neck": neck}, num_classes=3)
    targets = [target([[10, 12, 40, 60], [30, 20, 60, 50]], [0, 2], SIZE), target([], [], SIZE)]
    images = torch.randn(2, 3, *SIZE)
    model.eval()
    model.neck.train()  # the norms of the rest have to see the same batch
    with torch.no_grad():
        outputs = model(images)
        assert len(outputs.boxes[0]) == 2 * 3
        joined = model.loss(outputs, targets)
        kept = [field for field in outputs._fields if field != "canvas"]
        each = []
        for column in range(3):
            rows = slice(2 * column, 2 * column + 2)
            own = {field: tuple(level[rows] for level in getattr(outputs, field)) for field in kept}
            each.append(model.loss(outputs._replace(**own), targets))
        model.eval()
        last = model.loss(model(images), targets)
    for term, value in each[0].items():
        torch.testing.assert_close(last[term], value)  # evaluation sees the last one only
    # every divisor is that of all pyramids, and equal for each of them
    for term, value in joined.items():
        mean = sum(losses[term] for losses in each) / 3
        torch.testing.assert_close(value, mean, atol=1e-5, rtol=1e-4)


def test_deep_supervision_beside_other_branches() -> None:
    """They all get the targets of every pyramid; and 16-bit maps of nodes with norms join."""
    branches = {"iou_branch": {}, "density_branch": {}, "auxiliary": {}}
    model = detector("atss", SMALL_OF["atss"], {"neck": UNET, **branches}, num_classes=3)
    targets = [target([[10, 12, 40, 60], [30, 20, 60, 50]], [0, 2], SIZE), target([], [], SIZE)]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(2, 3, *SIZE))
    losses = model.loss(outputs, targets)
    assert {"class", "iou", "density", "aux_class", "aux_iou"} <= set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_thin_and_wide_necks_cost_what_they_say() -> None:
    """Multiply-adds of an image of 64 x 64, by hand: cells times weights."""

    def macs(neck: dict[str, Any]) -> int:
        with torch.device("meta"):
            model = detector("atss", SMALL_OF["atss"], {"neck": neck}, num_classes=3).eval()
        return count_macs(model, torch.zeros(1, 3, 64, 64, device="meta")).by_module["neck"]

    d = 64
    cells = {level: (64 // 2**level) ** 2 for level in (2, 3, 4, 5, 6)} | {7: 1}
    lateral = d * (128 * cells[3] + 256 * cells[4] + 512 * cells[5])
    output = 9 * d * d * (cells[3] + cells[4] + cells[5])
    extra = 9 * d * d * (cells[6] + cells[7])
    fpn = lateral + output + extra
    assert macs({"name": "fpn"}) == fpn
    assert macs({"name": "pan"}) == fpn + 2 * 9 * d * d * (cells[4] + cells[5])
    duc = 36 * d * d * (cells[4] + cells[5])
    assert macs({"name": "fpn", "upsample": "duc"}) == fpn + duc
    aspp = cells[5] * (512 * d * (1 + 9 * 3) + d * d * 5) + 512 * d
    assert macs({"name": "fpn", "aspp": {"channels": d}}) == fpn - (512 - d) * d * cells[5] + aspp
    nodes = 9 * d * d * ((2 + 3) * cells[3] + 2 * cells[4])
    assert macs({"name": "unet_pp"}) == fpn + nodes
    node = 9 * d + d * d
    twice = sum(cells[level] for level in (4, 5, 6)) * 2 + cells[3] + cells[7]
    assert macs({"name": "bifpn", "repeats": 2}) == (
        lateral + 512 * d * cells[5] + 2 * node * twice
    )


def test_mmdetections_pafpn_finds_its_places() -> None:
    """In a detector of one stage, whose extra convolutions are in the list of the outputs."""
    source = detector("atss", SMALL_OF["atss"], {"neck": {"name": "pan"}}, num_classes=3)
    renamed = {
        "neck.lateral.": "neck.lateral_convs.{}.conv",
        "neck.output.": "neck.fpn_convs.{}.conv",
        "neck.downsample.": "neck.downsample_convs.{}.conv",
        "neck.bottom_up.": "neck.pafpn_convs.{}.conv",
    }
    for key in source.neck.state_dict():
        part, number, kind = key.split(".")
        place = f"neck.{part}."
        if part == "extra":
            place, number = "neck.output.", str(int(number) + 3)
        there = f"{renamed[place].format(number)}.{kind}"
        assert mmdetection_key(there, 3) == f"neck.{key}"


@pytest.mark.parametrize(
    ("trick", "says"),
    [
        ("pan", "neck pan: bottom-up path of 2 steps"),
        ("bifpn", "neck bifpn: 5 levels fused 3 times, norm bn"),
        ("aspp", "neck: ASPP on C5, dilations 6, 12, 18, norm gn"),
        ("duc", "neck: 2 upsampling steps by DUC"),
        ("unet-plus-plus", "deep supervision: training losses are averaged over 2 pyramids"),
        ("pre-activation", "backbone: pre-activation, norm and ReLU before each convolution"),
    ],
)
def test_the_trick_says_what_it_did(trick: str, says: str, tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny(tmp_path), tricks=[trick]).recipe
    lines: list[str] = []
    with torch.device("meta"):
        announce_blocks(recipe, build_model(recipe, 2), lines.append)
    assert says in lines


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("atss_r50", ["model.neck={name: pan, min_level: 5}"], "pan has no path from level 5"),
        (
            "atss_r50",
            ["model.neck={name: bifpn, min_level: 5, max_level: 5}"],
            "bifpn fuses two or more levels",
        ),
        ("atss_r50", ["model.neck={name: bifpn, upsample: duc}"], r"neck\.upsample: unknown key"),
        ("atss_r50", ["model.neck={name: unet_pp, min_level: 5}"], "got C5 alone"),
        (
            "atss_r50",
            ["model.neck={name: unet_pp, min_level: 4, deep_supervision: true}"],
            r"neck\.deep_supervision: with min_level 4",
        ),
        (
            "atss_r50",
            ["model.neck={upsample: duc, min_level: 5}"],
            r"neck\.upsample: .* min_level 5",
        ),
        ("atss_r50", ["model.neck.aspp={channels: 48}"], "expected a multiple of 32 from 64 on"),
        ("atss_r50", ["model.neck.aspp={rates: [6, 0]}"], "expected numbers of 1 or more"),
        (
            "atss_r50",
            ["model.neck.aspp={norm: bn}", "data.batch_per_rank=1"],
            r"model\.neck\.aspp\.norm: bn takes its statistics",
        ),
        (
            "atss_r50",
            ["model.neck={name: bifpn}", "data.batch_per_rank=1"],
            r"model\.neck\.norm: bn takes its statistics",
        ),
        (
            "faster_rcnn_r50",
            ["model.neck={name: unet_pp, deep_supervision: true}"],
            r"neck\.deep_supervision: unknown key",
        ),
        (
            "atss_r50",
            [
                "model.neck={name: unet_pp, deep_supervision: true}",
                "train.distill={teacher: runs/x/1}",
            ],
            "gives several pyramids of each image",
        ),
        ("atss_r50", ["model.neck={name: pann}"], "did you mean pan"),
        ("ssd300", ["model.neck.name=pan"], r"model\.neck\.name: unknown key"),
    ],
)
def test_what_cannot_act_is_refused(name: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(name, overrides)


def test_a_neck_chosen_by_name_keeps_what_both_have() -> None:
    """And drops the rest with a note; a detector's own defaults are those of its FPN only."""
    loaded = load_recipe("vfnet_r50", ["model.neck.name=bifpn"])
    assert loaded.recipe.model.neck.min_level == 3
    assert "does not use model.neck.extra_from" in loaded.notes[0]
    assert load_recipe("vfnet_r50", ["model.neck.name=pan"]).recipe.model.neck.extra_relu


def test_a_neck_without_a_name_is_the_usual_one(tmp_path: Path) -> None:
    for name in FPN_DETECTORS:
        path = write_tiny(tmp_path, model={"name": name})
        model = load_recipe(path).recipe.model
        assert (model.backbone.name, model.neck.name) == ("resnet", "fpn")
        for neck in ("pan", "bifpn"):  # also where the recipe says nothing of it
            text = path.read_text().replace("  neck:\n    out_channels: 64\n", "")
            (tmp_path / "bare.yaml").write_text(text.replace("name: tiny", "name: bare"))
            loaded = load_recipe(tmp_path / "bare.yaml", [f"model.neck.name={neck}"])
            assert loaded.recipe.model.neck.name == neck


@pytest.mark.parametrize("trick", ["bifpn", "unet-plus-plus", "pre-activation"])
def test_the_overlay_as_shipped_learns(trick: str, tmp_path: Path) -> None:
    """And the running statistics of the neck move, where it has batch norms."""
    recipe = load_recipe(write_tiny(tmp_path), tricks=[trick]).recipe
    model = build_model(recipe, 2)
    targets = [target([[10, 12, 40, 60]], [0], (64, 64)), target([], [], (64, 64))]
    losses = model.loss(model(torch.randn(2, 3, 64, 64)), targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    norms = [part for part in model.neck.modules() if isinstance(part, nn.BatchNorm2d)]
    assert bool(norms) == (trick == "bifpn")
    assert all(part.num_batches_tracked > 0 for part in norms)
