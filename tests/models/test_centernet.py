"""CenterNet: the numbers of its references, its decoding, and its importers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.ops import deform_conv2d

from detcli.errors import CheckpointError, UsageError
from detcli.layers.norm import use_running_statistics
from detcli.models.backbones.dla import build_dla34
from detcli.models.centernet import CenterNetOutputs
from detcli.models.convert import (
    PublicWeights,
    convert_centernet,
    convert_mmdetection,
    read_weights,
    recognise_centernet,
    recognise_mmdetection,
)
from tests.models.fixtures import Fixture, num_agreeing
from tests.models.specs import (
    CENTERNET_DLA,
    CENTERNET_MM,
    CENTERNET_MM_DCN,
    CENTERNET_RESDCN,
    SMALL_OF,
    detector,
    target,
)
from tests.paths import needs_shared

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


@needs_shared
def test_features_and_raw_outputs_of_mmdetection(run: Run) -> None:
    for part in ("backbone", "neck"):
        for index, level in enumerate(run.kept[part]):
            assert run.fixture.error(f"feat/{part}/{index}", level) < LIMIT
    scores = run.outputs.class_logits[0].sigmoid()
    assert run.fixture.error("raw/center_heatmap/0", scores) < LIMIT
    assert run.fixture.error("raw/wh/0", run.outputs.sizes[0]) < LIMIT
    assert run.fixture.error("raw/offset/0", run.outputs.offsets[0]) < LIMIT


@needs_shared
def test_losses_and_centres_of_mmdetection(run: Run) -> None:
    names = {"class": "loss_center_heatmap", "size": "loss_wh", "offset": "loss_offset"}
    for name, value in run.losses.items():
        want = float(run.fixture.arrays[f"loss/{names[name]}"])
        assert value.item() == pytest.approx(want, rel=LIMIT), name
    found = run.model.assigner(
        run.fixture.targets, num_classes=80, grid=(128, 128), canvas=(512, 512)
    )
    assert found.num_objects == run.fixture.arrays["target_labels/0"]


@needs_shared
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


@needs_shared
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


class Weights(dict):
    """A public state dict that comes into being as a plain network asks for its tensors."""

    def __init__(self, given: dict[str, Tensor] | None = None) -> None:
        super().__init__(given or {})
        self.generator = torch.Generator().manual_seed(0)

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.2
            self[name] = torch.randn(*shape, generator=self.generator) * scale
            if name.endswith("running_var"):
                self[name] = 1 + self[name].abs()
        return self[name]

    def conv(self, x: Tensor, name: str, out: int, side: int, *, stride: int = 1, bias=False):
        weight = self.get(f"{name}.weight", out, x.shape[1], side, side)
        shift = self.get(f"{name}.bias", out) if bias else None
        return F.conv2d(x, weight, shift, stride, padding=side // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = [
            self.get(f"{name}.{part}", x.shape[1])
            for part in ("running_mean", "running_var", "weight", "bias")
        ]
        self.setdefault(f"{name}.num_batches_tracked", torch.tensor(3))
        return F.batch_norm(x, *parts)

    def dcn(self, x: Tensor, name: str, out: int) -> Tensor:
        codes = self.conv(x, f"{name}.conv_offset_mask", 27, 3, bias=True)
        weight = self.get(f"{name}.weight", out, x.shape[1], 3, 3)
        shift = self.get(f"{name}.bias", out)
        return deform_conv2d(
            x, codes[:, :18], weight, shift, padding=1, mask=codes[:, 18:].sigmoid()
        )

    def heads(self, x: Tensor, channels: int, num_classes: int) -> list[Tensor]:
        found = []
        for name, outputs in (("hm", num_classes), ("wh", 2), ("reg", 2)):
            hidden = self.conv(x, f"{name}.0", channels, 3, bias=True).relu()
            found.append(self.conv(hidden, f"{name}.2", outputs, 1, bias=True))
        return found


def block(w: Weights, x: Tensor, residual: Tensor, name: str, out: int, stride: int) -> Tensor:
    y = w.norm(w.conv(x, f"{name}.conv1", out, 3, stride=stride), f"{name}.bn1").relu()
    return (w.norm(w.conv(y, f"{name}.conv2", out, 3), f"{name}.bn2") + residual).relu()


def tree(w: Weights, x: Tensor, name: str, levels: int, out: int, stride: int, children) -> Tensor:
    """children: maps for the root; the projections of deeper trees are made but not used."""
    bottom = F.max_pool2d(x, stride) if stride > 1 else x
    residual = bottom
    if x.shape[1] != out:
        projected = w.conv(bottom, f"{name}.project.0", out, 1)
        residual = w.norm(projected, f"{name}.project.1")
    if levels == 2:
        first = tree(w, x, f"{name}.tree1", 1, out, stride, [])
        return tree(w, first, f"{name}.tree2", 1, out, 1, [*children, first])
    first = block(w, x, residual, f"{name}.tree1", out, stride)
    second = block(w, first, first, f"{name}.tree2", out, 1)
    joined = torch.cat([second, first, *children], dim=1)
    return w.norm(w.conv(joined, f"{name}.root.conv", out, 1), f"{name}.root.bn").relu()


def ida(w: Weights, maps: list[Tensor], name: str, out: int, factors: list[int]) -> list[Tensor]:
    found = [maps[0]]
    for index, (x, factor) in enumerate(zip(maps[1:], factors, strict=True), start=1):
        y = w.dcn(x, f"{name}.proj_{index}.conv", out)
        y = w.norm(y, f"{name}.proj_{index}.actf.0").relu()
        weight = w.get(f"{name}.up_{index}.weight", out, 1, 2 * factor, 2 * factor)
        y = F.conv_transpose2d(y, weight, stride=factor, padding=factor // 2, groups=out)
        y = w.dcn(y + found[-1], f"{name}.node_{index}.conv", out)
        found.append(w.norm(y, f"{name}.node_{index}.actf.0").relu())
    return found


def plain_dla(w: Weights, x: Tensor) -> list[Tensor]:
    """The maps of strides 4 to 32, names below base."""
    x = w.norm(w.conv(x, "base.base_layer.0", 16, 7), "base.base_layer.1").relu()
    x = w.norm(w.conv(x, "base.level0.0", 16, 3), "base.level0.1").relu()
    x = w.norm(w.conv(x, "base.level1.0", 32, 3, stride=2), "base.level1.1").relu()
    maps = []
    for level, (depth, out) in enumerate([(1, 64), (2, 128), (2, 256), (1, 512)], start=2):
        children = [F.max_pool2d(x, 2)] if level > 2 else []
        x = tree(w, x, f"base.level{level}", depth, out, 2, children)
        maps.append(x)
    return maps


def plain_dla_34(w: Weights, x: Tensor, num_classes: int) -> list[Tensor]:
    maps = plain_dla(w, x)
    first = ida(w, maps[2:], "dla_up.ida_0", 256, [2])
    second = ida(w, [maps[1], *first], "dla_up.ida_1", 128, [2, 2])
    third = ida(w, [maps[0], *second], "dla_up.ida_2", 64, [2, 2, 2])
    last = ida(w, [third[-1], second[-1], first[-1]], "ida_up", 64, [2, 4])[-1]
    return w.heads(last, 256, num_classes)


def plain_resdcn(w: Weights, x: Tensor, num_classes: int) -> list[Tensor]:
    trunk = resnet18(weights=None).eval()
    trunk.load_state_dict({name: w[name] for name in trunk.state_dict() if name in w}, strict=False)
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
    x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))
    for step, out in enumerate((256, 128, 64)):
        base = 6 * step
        x = w.norm(w.dcn(x, f"deconv_layers.{base}", out), f"deconv_layers.{base + 1}").relu()
        weight = w.get(f"deconv_layers.{base + 3}.weight", out, out, 4, 4)
        x = F.conv_transpose2d(x, weight, stride=2, padding=1)
        x = w.norm(x, f"deconv_layers.{base + 4}").relu()
    return w.heads(x, 64, num_classes)


def resnet_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = resnet18(weights=None).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


AUTHORS = [
    (CENTERNET_DLA, plain_dla_34, None, "dla34"),
    (CENTERNET_RESDCN, plain_resdcn, 18, None),
]


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
    backbone = build_dla34(norm="bn", weights=str(file)).eval()
    with torch.no_grad():
        for got, wanted in zip(backbone(images), want, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        build_dla34(norm="bn", weights=str(file))


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


def test_peaks_become_boxes_best_first() -> None:
    peaks = {(0, 4, 5): 0.9, (0, 4, 6): 0.8, (1, 4, 6): 0.8, (0, 7, 15): 0.7, (0, 0, 0): 0.6}
    model = small()
    model.score_threshold = 0.5
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
    model.score_threshold, model.topk = 0.5, 3
    peaks = {(1, 1, 1): 0.75, (0, 5, 9): 0.75, (0, 1, 1): 0.75, (0, 1, 9): 0.75}
    (found,) = model.decode(outputs_with(peaks), [(32, 64)])
    assert found.labels.tolist() == [0, 0, 0]
    torch.testing.assert_close(found.boxes[:, 1] + 4, torch.tensor([6.0, 6.0, 22.0]))


def test_empty_boxes_are_no_candidates() -> None:
    """Nothing keeps a size above 0, and nothing is left of a box in the padding."""
    outputs = outputs_with({(0, 4, 5): 0.9, (0, 4, 12): 0.8})
    model = small()
    model.score_threshold = 0.5
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
