"""What every detector in DETECTORS must do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.models import DETECTORS, ssd
from detcli.models.detector import Detector, MatchesQueries
from detcli.types import Target
from tests.models.specs import (
    DENSE_DETECTORS,
    FPN_DETECTORS,
    SECTIONS,
    SMALL_OF,
    TWO_STAGE,
    criterion_of,
    detector,
    section,
    target,
    thin_vgg,
)

CANVAS = (96, 128)
NUM_CLASSES = 5
REGRESSED = ("size", "offset")  # terms that CenterNet has for boxes

each_detector = pytest.mark.parametrize("name", DETECTORS)
dense_detector = pytest.mark.parametrize("name", DENSE_DETECTORS)
# The others look at what they propose: test_two_stage.py.
one_stage_detector = pytest.mark.parametrize("name", [n for n in DETECTORS if n not in TWO_STAGE])
ASSIGNERS: list[dict[str, Any]] = [
    {"name": "max_iou"},
    {"name": "atss"},
    {"name": "fcos", "center_radius": 1.5},
]


@pytest.fixture(autouse=True)
def _thin_ssd(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG-16 itself would take a minute here; its numbers are tested elsewhere."""
    monkeypatch.setitem(ssd.BACKBONES, "vgg16", thin_vgg)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Small maps on shared cores: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *CANVAS, generator=generator)


def some_targets() -> list[Target]:
    return [
        target([[10, 12, 40, 60], [50, 20, 110, 80], [8, 8, 14, 14]], [0, 4, 2], CANVAS),
        target([[20, 30, 60, 90]], [1], (96, 96)),
    ]


def empty_targets() -> list[Target]:
    return [target([], [], CANVAS), target([], [], (64, 96))]


def small(name: str, *changes: dict[str, Any], num_classes: int = NUM_CLASSES) -> nn.Module:
    return detector(name, SMALL_OF[name], *changes, num_classes=num_classes)


def test_the_tests_know_every_detector() -> None:
    assert set(SECTIONS) == set(DETECTORS)


@each_detector
def test_a_builder_reads_every_option_of_its_section(name: str) -> None:
    read = set()

    class Watched:
        def __getattr__(self, key: str) -> Any:
            read.add(key)
            return getattr(options, key)

    for start in ("box", "point"):  # of regression, where there is a choice, and keys of each
        options = section(name).model_copy(update={"regression": start})
        with torch.device("meta"):
            DETECTORS[name](Watched(), num_classes=NUM_CLASSES)
    assert set(SECTIONS[name].model_fields) - {"name"} <= read


def parameters_of(step: Any) -> list[tuple[Any, ...]]:
    found = inspect.signature(step).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@each_detector
def test_every_detector_takes_what_the_engine_hands_it(name: str) -> None:
    model = small(name)
    assert isinstance(model, Detector)
    for step in ("forward", "loss", "decode"):
        mine, asked = getattr(type(model), step), getattr(Detector, step)
        assert parameters_of(mine) == parameters_of(asked), step
    assert isinstance(model, MatchesQueries) == (name in ("detr", "deformable_detr"))


@pytest.mark.parametrize("name", FPN_DETECTORS)
@pytest.mark.parametrize("min_level", [2, 3])
def test_shapes_are_as_documented(name: str, min_level: int) -> None:
    model = small(name, {"neck": {"min_level": min_level}})
    outputs = model(batch())
    assert tuple(outputs.canvas) == CANVAS
    sizes = []
    for level in range(min_level, 8):
        stride = 2**level
        sizes.append((-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)))
    anchors = 9 if name == "retinanet" else 1
    widths = {"class_logits": anchors * NUM_CLASSES, "boxes": anchors * 4, "centerness": 1}
    widths |= {"first_boxes": 4, "shapes": 2, "locations": 1}
    for field in outputs._fields:
        if field == "canvas" or not getattr(outputs, field):  # what is off is empty
            continue
        shapes = [tuple(level.shape) for level in getattr(outputs, field)]
        assert shapes == [(2, widths[field], *size) for size in sizes], field


@each_detector
@pytest.mark.parametrize("targets", [some_targets(), empty_targets()], ids=["some", "none"])
def test_losses_are_finite_and_reach_every_parameter(name: str, targets: list[Target]) -> None:
    model = small(name)
    losses = model.loss(model(batch(), targets), targets)
    for term, value in losses.items():
        assert value.shape == (), term
        assert value.dtype == torch.float32, term
        assert value.isfinite(), term
    sum(losses.values()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    if targets[0].boxes.numel() == 0:
        without_boxes = [losses[term] for term in losses if "box" in term or term in REGRESSED]
        assert without_boxes
        assert all(value == 0 for value in without_boxes)


@pytest.mark.slow
@dense_detector
@pytest.mark.parametrize("assigner", ASSIGNERS, ids=lambda spec: spec["name"])
@pytest.mark.parametrize("regression", ["box", "point"])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_assigner_and_regression_are_exchangeable(
    name: str, assigner: dict[str, Any], regression: str, box_loss: str
) -> None:
    changes = {
        "assigner": assigner,
        "regression": regression,
        "box_loss": {"name": box_loss},
        **({"head": {"num_convs": 0}} if name in FPN_DETECTORS else {}),
    }
    model = small(name, changes)
    losses = model.loss(model(batch()), some_targets())
    assert all(value.isfinite() for value in losses.values())
    assert losses["box"] > 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@dense_detector
def test_ignored_regions_count_neither_way(name: str) -> None:
    """The class loss does not change when what lies in an ignored region does."""
    model = small(name).eval()
    background = criterion_of(model).class_loss.num_background
    region = [[32.0, 32.0, 127.0, 95.0]]
    boxes, labels = [[4, 4, 24, 28]], [1]
    with_region = [target(boxes, labels, CANVAS, region)]
    without = [target(boxes, labels, CANVAS)]
    with torch.no_grad():
        outputs = model(batch(1))
        centers = model.priors(outputs.boxes, outputs.canvas).centers.split(
            [level.shape[1] // 4 * level.shape[2] * level.shape[3] for level in outputs.boxes]
        )
        spoiled = []
        for level, points in zip(outputs.class_logits, centers, strict=True):
            inside = ((points >= 32) & (points <= torch.tensor([127.0, 95.0]))).all(dim=1)
            cells = inside.view(level.shape[2], level.shape[3], -1)[..., 0]
            per_anchor = level.unflatten(1, (-1, model.head.num_classes + background))
            classes = per_anchor[:, :, :NUM_CLASSES].masked_fill(cells, 40.0)
            rest = per_anchor[:, :, NUM_CLASSES:]
            spoiled.append(torch.cat([classes, rest], dim=2).flatten(1, 2))
        spoiled_outputs = outputs._replace(class_logits=tuple(spoiled))
        kept = model.loss(outputs, with_region)["class"]
        torch.testing.assert_close(model.loss(spoiled_outputs, with_region)["class"], kept)
        changed = model.loss(spoiled_outputs, without)["class"]
    assert changed > 2 * kept


@dense_detector
def test_candidates_lie_in_the_image_and_come_best_first(name: str) -> None:
    model = small(name, {"score_threshold": 0.011, "topk_per_level": 20}).eval()
    for prediction, std in ((model.head.class_logits, 0.2), (model.head.box, 0.01)):
        for part in prediction.modules():
            if isinstance(part, nn.Conv2d):  # small boxes: those that leave the image are dropped
                nn.init.normal_(part.weight, std=std)
    sizes = [CANVAS, (64, 96)]
    with torch.no_grad():
        outputs = model(batch())
        found = model.decode(outputs, sizes)
    assert not found[0].boxes.requires_grad
    for candidates, (height, width) in zip(found, sizes, strict=True):
        assert len(candidates.scores) > 20
        assert len(candidates.scores) <= 20 * 5
        assert candidates.boxes.min() >= 0
        assert candidates.boxes[:, 0::2].max() <= width
        assert candidates.boxes[:, 1::2].max() <= height
        assert candidates.labels.min() >= 0
        assert candidates.labels.max() < NUM_CLASSES
    if name in ("retinanet", "ssd"):  # elsewhere centre-ness lowers scores after the threshold
        assert found[0].scores.min() > 0.011
        first_level = found[0].scores[:20]
        assert (first_level.diff() <= 0).all()


@dense_detector
def test_no_candidates_above_the_threshold(name: str) -> None:
    model = small(name, {"score_threshold": 0.9}).eval()
    with torch.no_grad():
        for part in model.head.class_logits.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.zeros_(part.weight)
        found = model.decode(model(batch()), [CANVAS, CANVAS])
    assert [len(candidates.scores) for candidates in found] == [0, 0]


@each_detector
def test_decode_runs_no_layer(name: str) -> None:
    model = small(name, {"score_threshold": 0.0}).eval()
    sizes = [CANVAS, (64, 96)]

    def refuse(layer: nn.Module, _: Any) -> None:
        pytest.fail(f"decode runs {type(layer).__name__}")

    with torch.no_grad():
        outputs = model(batch(), sizes=sizes)
        wanted = model.decode(outputs, sizes)
        for layer in model.modules():
            if list(layer.parameters()):
                layer.register_forward_pre_hook(refuse)
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        found = model.decode(outputs, sizes)
    assert sum(len(candidates.scores) for candidates in found) > 0
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


@each_detector
def test_a_batch_of_no_images(name: str) -> None:
    model = small(name).eval()
    with torch.no_grad():
        assert model.decode(model(batch(0)), []) == []


@one_stage_detector
def test_batched_equals_single_images(name: str) -> None:
    model = small(name).eval()
    images = batch()
    with torch.no_grad():
        together = model(images)
        for image in range(2):
            alone = model(images[image : image + 1])
            for field in together._fields[:-1]:
                for a, b in zip(getattr(together, field), getattr(alone, field), strict=True):
                    torch.testing.assert_close(a[image : image + 1], b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each_detector
def test_same_seed_same_step(name: str) -> None:
    runs = []
    for _ in range(2):
        model = small(name)
        losses = model.loss(model(batch(), some_targets()), some_targets())
        sum(losses.values()).backward()
        runs.append([*losses.values(), *(p.grad for p in model.parameters())])
    for first, second in zip(*runs, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@one_stage_detector
def test_decode_leaves_the_outputs_alone(name: str) -> None:
    model = small(name).eval()
    with torch.no_grad():
        outputs = model(batch())
        before = [level.clone() for field in outputs[:-1] for level in field]
        model.decode(outputs, [CANVAS, CANVAS])
        model.loss(outputs, some_targets())
    after = [level for field in outputs[:-1] for level in field]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@each_detector
def test_one_class(name: str) -> None:
    model = small(name, {"score_threshold": 0.0}, num_classes=1)
    targets = [target([[10, 12, 40, 60]], [0], CANVAS), target([], [], CANVAS)]
    losses = model.loss(model(batch(), targets), targets)
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        found = model.decode(model(batch()), [CANVAS, CANVAS])
    assert found[0].labels.unique().tolist() == [0]


@pytest.mark.slow
@one_stage_detector
def test_autocast_to_bfloat16_keeps_losses_in_float32(name: str) -> None:
    model = small(name)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch())
        losses = model.loss(outputs, some_targets())
    assert outputs[0][0].dtype == torch.bfloat16
    plain = model.loss(model(batch()), some_targets())
    sum(losses.values()).backward()
    for term, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(plain[term].item(), rel=0.05), term
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@each_detector
def test_learns_two_images(name: str) -> None:
    """Two blocks on noise: the loss must fall to a fraction in at most two dozen steps."""
    norm = {"backbone": {"norm": "gn"}} if name in FPN_DETECTORS else {}
    model = small(name, norm, num_classes=2)
    images = batch() * 0.1
    images[0, 0, 16:64, 20:80] += 2
    images[1, 2, 30:80, 40:90] += 2
    targets = [target([[20, 16, 80, 64]], [0], CANVAS), target([[40, 30, 90, 80]], [1], CANVAS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    first = None
    for _ in range(25):
        loss = sum(model.loss(model(images, targets), targets).values())
        first = first or loss.item()
        if loss.item() < 0.4 * first:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss fell from {first} to {loss.item()} only")


@pytest.mark.slow
@one_stage_detector
def test_state_dict_round_trip(name: str) -> None:
    model, other = small(name).eval(), small(name).eval()
    for parameter in other.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        first, second = model(batch()), other(batch())
    for a, b in zip(first[0], second[0], strict=True):
        assert torch.equal(a, b)
