"""CenterNet: the numbers of its references, its decoding, and its importers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from detcli.errors import CheckpointError, UsageError
from detcli.layers.norm import use_running_statistics
from detcli.models.backbones.dla import build_dla34
from detcli.models.centernet import CenterNetOutputs
from detcli.models.dense.decode import Selection
from detcli.recipe.sections.models.centernet import DlaBackbone
from detcli.weights import (
    PublicWeights,
    convert_centernet,
    convert_mmdetection,
    read_weights,
    recognise_centernet,
    recognise_mmdetection,
)
from tests.fixtures.reference import Fixture, num_agreeing
from tests.models.plain_centernet import Weights, plain_dla, plain_dla_34, plain_resdcn
from tests.models.specs import (
    CENTERNET_AUTHORS,
    CENTERNET_DLA,
    CENTERNET_MM,
    CENTERNET_MM_DCN,
    CENTERNET_RESDCN,
    SMALL_OF,
    detector,
    target,
)

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # those of the fixtures' README
GRADIENT_LIMIT = 1e-3


@dataclass
class Run:
    fixture: Fixture
    model: nn.Module
    names: dict[str, str]
    kept: dict[str, Any]
    outputs: CenterNetOutputs
    losses: dict[str, Tensor]


@pytest.fixture(scope="module")
def run() -> Run:
    """Forward, losses and backward of the fixture's batch, norms on running statistics."""
    fixture = Fixture("mm_centernet_r18")
    model = detector("centernet", CENTERNET_MM)
    names = dict(convert_mmdetection(fixture.state, model).names)
    use_running_statistics(model.train())
    kept: dict[str, Any] = {}
    for part in ("backbone", "neck"):
        getattr(model, part).register_forward_hook(
            lambda _module, _inputs, output, part=part: kept.__setitem__(part, output)
        )
    outputs = model(fixture.images)
    losses = model.loss(outputs, fixture.targets)
    sum(losses.values()).backward()
    return Run(fixture, model, names, kept, outputs, losses)


def test_features_and_raw_outputs_of_mmdetection(run: Run) -> None:
    for part in ("backbone", "neck"):
        for index, level in enumerate(run.kept[part]):
            assert run.fixture.error(f"feat/{part}/{index}", level) < LIMIT
    scores = run.outputs.class_logits[0].sigmoid()
    assert run.fixture.error("raw/center_heatmap/0", scores) < LIMIT
    assert run.fixture.error("raw/wh/0", run.outputs.sizes[0]) < LIMIT
    assert run.fixture.error("raw/offset/0", run.outputs.offsets[0]) < LIMIT


def test_losses_and_centres_of_mmdetection(run: Run) -> None:
    names = {"class": "loss_center_heatmap", "size": "loss_wh", "offset": "loss_offset"}
    for name, value in run.losses.items():
        want = float(run.fixture.arrays[f"loss/{names[name]}"])
        assert value.item() == pytest.approx(want, rel=LIMIT), name
    found = run.model.assigner(
        run.fixture.targets, num_classes=80, grid=(128, 128), canvas=(512, 512)
    )
    assert found.num_objects == run.fixture.arrays["target_labels/0"]


def test_gradient_norms_of_mmdetection(run: Run) -> None:
    parameters = dict(run.model.named_parameters())
    for theirs, ours in {"backbone": "backbone", "neck": "neck", "bbox_head": "head"}.items():
        squares = [
            value.grad.double().square().sum().item()
            for name, value in parameters.items()
            if name.startswith(f"{ours}.")
        ]
        want = float(run.fixture.arrays[f"grad/{theirs}"])
        assert math.sqrt(sum(squares)) == pytest.approx(want, rel=GRADIENT_LIMIT)
    norms = run.fixture.arrays["grad_param/norms"]
    for name, want in zip(run.fixture.arrays["grad_param/names"], norms, strict=True):
        got = parameters[run.names[str(name)]].grad.norm().item()
        assert got == pytest.approx(want, rel=GRADIENT_LIMIT), name


def test_final_boxes_of_mmdetection(run: Run) -> None:
    for image, found in enumerate(run.model.decode(run.outputs, run.fixture.sizes)):
        arrays = run.fixture.arrays
        boxes, scores, labels = (
            torch.from_numpy(arrays[f"pred/{image}/{name}"])
            for name in ("boxes", "scores", "labels")
        )
        assert (
            num_agreeing((boxes, scores, labels), (found.boxes, found.scores, found.labels)) >= 98
        )


def resnet_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = resnet18(weights=None).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


AUTHORS = [(CENTERNET_DLA, plain_dla_34, None, "dla34"), (CENTERNET_RESDCN, plain_resdcn, 18, None)]


@pytest.mark.parametrize(("changes", "plain", "depth", "variant"), AUTHORS)
def test_the_authors_networks_equal_plain_ones(changes, plain, depth, variant, tmp_path) -> None:
    """From a file as the authors write it: module. in front, the state dict inside."""
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    weights = Weights(resnet_weights() if depth else None)
    with torch.no_grad():
        want = plain(weights, images, 5)
    file = tmp_path / "ctdet.pth"
    state = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 140, "state_dict": state}, file)
    public = read_weights(file)
    facts = recognise_centernet(public, str(file))
    assert (facts.detector, facts.depth, facts.variant) == ("centernet", depth, variant)
    assert facts.num_classes == 5
    model = detector("centernet", changes, num_classes=5).eval()
    report = convert_centernet(public.tensors, model, str(file))
    with torch.no_grad():
        outputs = model(images)
    for got, wanted in zip((outputs[0][0], outputs[1][0], outputs[2][0]), want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    unused = set(weights) - set(report.names)
    assert all(name.startswith(("base.level3.project", "base.level4.project")) for name in unused)
    assert len(unused) == (12 if variant else 0)
    assert [note[:20] for note in report.notes] == (["left out: 12 tensors"] if variant else [])


def test_imagenet_weights_of_dla(tmp_path: Path) -> None:
    """Old files lack the counters and have a classifier."""
    weights, images = Weights(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = plain_dla(weights, images)
    file = tmp_path / "dla34.pth"
    state = {
        name.removeprefix("base."): value
        for name, value in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({**state, "fc.weight": torch.zeros(1000, 512, 1, 1)}, file)
    backbone = build_dla34(DlaBackbone(name="dla34", weights=str(file))).eval()
    with torch.no_grad():
        for got, wanted in zip(backbone(images), want, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        build_dla34(DlaBackbone(name="dla34", weights=str(file)))


@pytest.mark.parametrize("changes", [CENTERNET_DLA, CENTERNET_MM_DCN], ids=["dla", "dcn"])
@pytest.mark.parametrize("boxes", [[[8.0, 8, 40, 50]], []], ids=["some", "none"])
def test_gradients_reach_every_parameter(changes: dict[str, Any], boxes: list) -> None:
    model = detector("centernet", changes, num_classes=2)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    targets = [target(boxes, [1] * len(boxes), (64, 96))]
    losses = model.loss(model(images), targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if not boxes:
        assert (losses["size"], losses["offset"]) == (0, 0)


def test_dla_without_fitting_images() -> None:
    model = detector("centernet", CENTERNET_DLA, num_classes=2)
    with pytest.raises(UsageError, match=r"multiples of 32.*data\.pad_multiple"):
        model(torch.zeros(1, 3, 64, 80))


def test_deformable_convolutions_of_mmdetection_come_in() -> None:
    source = detector("centernet", CENTERNET_MM_DCN, num_classes=4)
    state = {}
    for name, value in source.state_dict().items():
        new = name.replace("neck.reduce.", "R").replace("neck.enlarge.", "E")
        if new[0] in "RE":
            step, kind, rest = new[1:].split(".", 2)
            place = 2 * int(step) + (new[0] == "E")
            new = f"neck.deconv_layers.{place}.{'bn' if kind == 'norm' else 'conv'}.{rest}"
        new = new.replace("head.class_logits", "bbox_head.heatmap_head")
        new = new.replace("head.size", "bbox_head.wh_head")
        new = new.replace("head.offset", "bbox_head.offset_head")
        if not new.startswith("backbone."):
            state[new] = torch.randn_like(value) if value.is_floating_point() else value
    assert "neck.deconv_layers.4.conv.conv_offset.weight" in state
    state |= {f"backbone.{name}": value for name, value in resnet_weights().items()}
    facts = recognise_mmdetection(PublicWeights(state, None), "FILE")
    assert (facts.detector, facts.depth, facts.variant) == ("centernet", 18, "dcnv2")
    model = detector("centernet", CENTERNET_MM_DCN, num_classes=4)
    names = convert_mmdetection(state, model).names
    assert set(names) == set(state)
    own = model.state_dict()
    assert all(torch.equal(own[names[name]], value) for name, value in state.items())
    offsets = own["neck.reduce.2.conv.conv_offset.weight"]
    assert torch.equal(offsets, state["neck.deconv_layers.4.conv.conv_offset.weight"])


def test_other_checkpoints_get_one_clear_line() -> None:
    heads = dict.fromkeys(("hm.2.weight", "wh.2.weight"), torch.zeros(80, 64, 1, 1))
    for state, words in (
        ({**resnet_weights(), **heads}, "looks like xingyizhou/CenterNet"),  # of another backbone
        (resnet_weights(), "looks like a ResNet without a detector"),
    ):
        with pytest.raises(CheckpointError, match=rf"ctdet with resdcn or .*{words}") as caught:
            recognise_centernet(PublicWeights(state, None), "FILE")
        assert "\n" not in str(caught.value)


def small() -> nn.Module:
    return detector("centernet", SMALL_OF["centernet"], num_classes=2).eval()


def outputs_with(peaks: dict[tuple[int, int, int], float]) -> CenterNetOutputs:
    """One image of 32 x 64 pixels with these probabilities at (class, row, column)."""
    scores = torch.full((1, 2, 8, 16), 0.001)
    for place, score in peaks.items():
        scores[(0, *place)] = score
    sizes = torch.tensor([3.0, 2.0])[None, :, None, None].expand(1, 2, 8, 16)
    offsets = torch.tensor([0.25, 0.5])[None, :, None, None].expand(1, 2, 8, 16)
    return CenterNetOutputs((scores.logit(),), (sizes,), (offsets,), (32, 64))


@pytest.mark.parametrize("objects", [True, False])
def test_losses_as_the_authors_count_them(objects: bool) -> None:
    """Every object is regressed, also where two share a cell, and peaks count for each class; a
    batch without any keeps the sum over the background."""
    model = detector("centernet", SMALL_OF["centernet"], CENTERNET_AUTHORS, num_classes=2)
    generator = torch.Generator().manual_seed(0)
    logits, sizes, offsets = (torch.randn(1, 2, 8, 16, generator=generator) * 6 for _ in range(3))
    boxes = [[4.0, 4, 20, 28], [4.0, 5, 20, 27], [6.0, 8, 18, 24], [40.0, 2, 62, 30]]
    labels = [0, 0, 1, 1]
    targets = [target(boxes, labels, (32, 64)) if objects else target([], [], (32, 64))]
    wanted = model.assigner(targets, num_classes=2, grid=(8, 16), canvas=(32, 64))
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    peaks = wanted.heatmaps == 1
    negative = (1 - score).log() * score**2 * (1 - wanted.heatmaps) ** 4
    positive = (score.log() * (1 - score) ** 2)[peaks].sum()
    want = {"class": -(negative.sum() + positive) / max(1, int(peaks.sum())), "size": 0.0}
    want["offset"] = 0.0
    for x1, y1, x2, y2 in boxes if objects else []:
        x, y = (x1 + x2) / 8, (y1 + y2) / 8
        cell = (0, slice(None), int(y), int(x))
        size = torch.tensor([(x2 - x1) / 4, (y2 - y1) / 4])
        want["size"] += 0.1 * float((sizes[cell] - size).abs().sum()) / (2 * len(boxes))
        offset = torch.tensor([x % 1, y % 1])
        want["offset"] += float((offsets[cell] - offset).abs().sum()) / (2 * len(boxes))
    got = model.loss(CenterNetOutputs((logits,), (sizes,), (offsets,), (32, 64)), targets)
    assert int(peaks.sum()) == (3 if objects else 0)
    for name, value in want.items():
        assert got[name].item() == pytest.approx(float(value), rel=1e-4), name


def test_peaks_become_boxes_best_first() -> None:
    peaks = {(0, 4, 5): 0.9, (0, 4, 6): 0.8, (1, 4, 6): 0.8, (0, 7, 15): 0.7, (0, 0, 0): 0.6}
    model = small()
    model.selection = Selection(0.5, 100)
    (found,) = model.decode(outputs_with(peaks), [(30, 60)])
    # class 0 at (4, 6) is not the highest of its neighbourhood
    assert found.labels.tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.7, 0.6]))
    center = [(5.25 * 4, 4.5 * 4), (6.25 * 4, 4.5 * 4), (15.25 * 4, 7.5 * 4), (1.0, 2.0)]
    want = [[x - 6, y - 4, x + 6, y + 4] for x, y in center]
    want[2] = [want[2][0], want[2][1], 60, 30]  # clipped to the valid size
    want[3] = [0, 0, want[3][2], want[3][3]]
    torch.testing.assert_close(found.boxes, torch.tensor(want))


def test_equal_scores_stay_in_order_and_topk_holds() -> None:
    model = small()
    model.selection = Selection(0.5, 3)
    peaks = {(1, 1, 1): 0.75, (0, 5, 9): 0.75, (0, 1, 1): 0.75, (0, 1, 9): 0.75}
    (found,) = model.decode(outputs_with(peaks), [(32, 64)])
    assert found.labels.tolist() == [0, 0, 0]
    torch.testing.assert_close(found.boxes[:, 1] + 4, torch.tensor([6.0, 6.0, 22.0]))


def test_empty_boxes_are_no_candidates() -> None:
    """Nothing keeps a size above 0, and nothing is left of a box in the padding."""
    outputs = outputs_with({(0, 4, 5): 0.9, (0, 4, 12): 0.8})
    model = small()
    model.selection = Selection(0.5, 100)
    (found,) = model.decode(outputs, [(32, 40)])
    torch.testing.assert_close(found.scores, torch.tensor([0.9]))
    (found,) = model.decode(outputs._replace(sizes=(-outputs.sizes[0],)), [(32, 64)])
    assert len(found.scores) == 0


def test_ignored_regions_count_neither_way() -> None:
    model, generator = small(), torch.Generator().manual_seed(0)
    raw = [torch.randn(1, 2, 8, 16, generator=generator) for _ in range(3)]
    boxes, labels = [[4.0, 4, 20, 28]], [1]
    with_region = [target(boxes, labels, (32, 64), [[32.0, 0, 64, 32]])]
    without = [target(boxes, labels, (32, 64))]
    spoiled = raw[0].clone()
    spoiled[..., 8:] = 9.0
    kept, changed, counted = (
        model.loss(CenterNetOutputs((logits,), (raw[1],), (raw[2],), (32, 64)), targets)["class"]
        for logits, targets in ((raw[0], with_region), (spoiled, with_region), (spoiled, without))
    )
    assert kept == changed
    assert counted > 2 * kept
