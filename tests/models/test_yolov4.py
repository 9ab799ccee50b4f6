"""YOLOv4: the numbers of its references, Darknet's loss as a loop, and Darknet's files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detcli.layers.norm import use_running_statistics
from detcli.models.yolo_loss import ScaledLoss
from detcli.models.yolov4 import YOLOv4Outputs
from detcli.ops.boxes import pairwise_iou
from detcli.recipe.sections.models import yolov4
from detcli.weights import convert_tianxiaomo
from tests.fixtures.reference import Fixture, num_agreeing
from tests.models.small_yolov4 import ANCHORS, CANVAS, small, some_case
from tests.models.specs import detector, target

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # those of the fixtures' README


GRADIENT_LIMIT = 1e-3


# The port whose boxes are stored does not use scale_xy: it leaves it at 1.
PORT = {"scale_xy": [1.0, 1.0, 1.0], "classes_per_box": "best", "score_threshold": 0.4}


SCALED = ScaledLoss(yolov4.ScaledLoss(name="scaled"))


@dataclass
class Run:
    fixture: Fixture
    model: nn.Module
    names: dict[str, str]
    outputs: YOLOv4Outputs
    losses: dict[str, Tensor]


@pytest.fixture(scope="module")
def run() -> Run:
    """Forward of the fixture's batch with norms on running statistics; WongKinYiu's losses and
    their backward."""
    fixture = Fixture("yolov4")
    model = detector("yolov4", PORT)
    names = dict(convert_tianxiaomo(fixture.state, model).names)
    use_running_statistics(model.train())
    outputs = model(fixture.images)
    losses = SCALED(outputs.raw, model.levels, fixture.targets, outputs.canvas)
    sum(losses.values()).backward()
    return Run(fixture, model, names, outputs, losses)


def test_raw_outputs_and_size(run: Run) -> None:
    assert sum(p.numel() for p in run.model.parameters()) == 64363101
    for index, level in enumerate(run.outputs.raw):
        assert run.fixture.error(f"raw/{index}", level) < LIMIT


def test_decoded_boxes(run: Run) -> None:
    def boxes(form: str) -> Tensor:
        levels = zip(run.outputs.raw, run.model.levels, strict=True)
        found = [level.decode(level.split(raw)[:, :, :4], form) for raw, level in levels]
        return torch.cat([level.flatten(1, 3) for level in found], dim=1).detach()

    exp = boxes("exp") / 416
    assert run.fixture.error("decoded/boxes_xyxy_normalised", exp) < LIMIT
    power = boxes("power")
    rows = [
        level.split(raw).permute(0, 1, 3, 4, 2).flatten(1, 3)
        for raw, level in zip(run.outputs.raw, run.model.levels, strict=True)
    ]
    scores = torch.cat(rows, dim=1).detach()[..., 4:].sigmoid()
    assert run.fixture.error("decoded/confidence", scores[..., :1] * scores[..., 1:]) < LIMIT
    center = torch.cat([(power[..., :2] + power[..., 2:]) / 2, power[..., 2:] - power[..., :2]], -1)
    decoded = torch.cat([center, scores], dim=-1)
    assert run.fixture.error("wky/decoded_cxcywh_obj_cls", decoded) < LIMIT


def test_final_boxes(run: Run) -> None:
    for image, found in enumerate(run.model.decode(run.outputs, run.fixture.sizes)):
        keep = batched_nms(found.boxes, found.scores, found.labels, 0.6)[:100]
        arrays = run.fixture.arrays
        boxes, scores, labels = (
            torch.from_numpy(arrays[f"pred/{image}/{name}"])
            for name in ("boxes", "scores", "labels")
        )
        got = (found.boxes[keep], found.scores[keep], found.labels[keep])
        assert len(keep) == len(scores)
        assert num_agreeing((boxes, scores, labels), got) >= 0.98 * len(scores)


def test_losses_of_wongkinyiu(run: Run) -> None:
    for name, theirs in {"box": "box", "objectness": "obj", "class": "cls"}.items():
        want = float(run.fixture.arrays[f"wky/loss/{theirs}"])
        assert run.losses[name].item() == pytest.approx(want, rel=LIMIT)
    total = 2 * sum(run.losses.values()).item()  # there, the sum is multiplied by the images
    assert total == pytest.approx(float(run.fixture.arrays["wky/loss/total_times_batch"]), rel=1e-4)


def test_gradient_norms_of_wongkinyiu(run: Run) -> None:
    parameters = dict(run.model.named_parameters())
    for part in ("backbone", "neck", "head"):
        squares = [
            value.grad.double().square().sum().item()
            for name, value in parameters.items()
            if name.startswith(f"{part}.")
        ]
        want = float(run.fixture.arrays[f"grad/{part}"])
        assert 2 * math.sqrt(sum(squares)) == pytest.approx(want, rel=GRADIENT_LIMIT)
    norms = run.fixture.arrays["grad_param/norms"]
    for name, want in zip(run.fixture.arrays["grad_param/names"], norms, strict=True):
        got = 2 * parameters[run.names[str(name)]].grad.norm().item()
        assert got == pytest.approx(want, rel=GRADIENT_LIMIT), name


@pytest.mark.parametrize("loss", ["darknet", "scaled"])
def test_each_loss_learns_and_decodes_in_its_own_code(loss: str) -> None:
    """The raw outputs alone follow the gradient until they decode to the objects."""
    model = small({"loss": {"name": loss}, "score_threshold": 0.3}, ANCHORS)
    outputs, _ = some_case(1)
    boxes = [[30.0, 20, 86, 60], [8.0, 8, 22, 30]]
    targets = [target(boxes, [1, 0], CANVAS), target([], [], CANVAS)]
    raw = [level.clone().requires_grad_() for level in outputs.raw]
    optimizer = torch.optim.Adam(raw, lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model.loss(YOLOv4Outputs(tuple(raw), CANVAS), targets).values()).backward()
        optimizer.step()
    first, second = model.decode(YOLOv4Outputs(tuple(raw), CANVAS), [CANVAS, CANVAS])
    assert len(second.scores) == 0
    iou = pairwise_iou(torch.tensor(boxes), first.boxes)
    for number, label in enumerate([1, 0]):
        best = iou[number].argmax()
        assert iou[number, best] > 0.85
        assert first.labels[best] == label


def test_the_best_class_of_a_box() -> None:
    outputs, _ = some_case(0)
    every, best = (
        small({"score_threshold": 0.05, "classes_per_box": which}, ANCHORS).decode(
            outputs, [CANVAS, CANVAS]
        )[0]
        for which in ("all", "best")
    )
    priors = [(level.flatten(2)).shape[2] * 3 for level in outputs.raw]
    assert len(best.scores) < min(len(every.scores), sum(priors))
    for box, score in zip(every.boxes, every.scores, strict=True):
        same = (best.boxes == box).all(dim=1)
        assert not same.any() or best.scores[same].max() >= score
