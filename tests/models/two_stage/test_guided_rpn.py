"""GA-RPN against a second account of MMDetection's GARPNHead, cell by cell and box by box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from detcli.models.two_stage.guided_rpn import GuidedRPNOutputs
from detcli.types import Target
from tests.models.specs import target
from tests.models.two_stage.small import CANVAS, batch, small, some_targets

pytestmark = pytest.mark.usefixtures("one_thread")

STRIDES = (8, 16, 32)
BASE, SHAPE_STD, STDS = 4.0, 0.14, (0.07, 0.07, 0.11, 0.11)
THRESHOLD = 0.01
SIZES = [CANVAS, (64, 96)]


@dataclass
class Cell:
    """A place with its square of side `side`, and which level, row and column it is."""

    level: int
    row: int
    column: int
    x: float
    y: float
    side: float


CELLS = [
    Cell(level, row, column, column * stride, row * stride, BASE * stride)
    for level, stride in enumerate(STRIDES)
    for row in range(CANVAS[0] // stride)
    for column in range(CANVAS[1] // stride)
]


def targets() -> list[Target]:
    """Objects that meet on one level, that fill levels, a tiny one, and one in an image with
    padding."""
    boxes = [[10, 12, 40, 60], [18, 20, 60, 62], [50, 20, 120, 84], [8, 8, 14, 14], [0, 0, 120, 90]]
    return [
        target(boxes, [0, 2, 2, 1, 0], CANVAS),
        target([[20, 10, 60, 50], [52, 8, 90, 30]], [1, 0], SIZES[1]),
    ]


def random_outputs() -> GuidedRPNOutputs:
    generator = torch.Generator().manual_seed(7)

    def maps(channels: int, scale: float, shift: float = 0.0) -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(2, channels, CANVAS[0] // s, CANVAS[1] // s, generator=generator) * scale
            + shift
            for s in STRIDES
        )

    return GuidedRPNOutputs(maps(1, 1.0), maps(4, 0.8), maps(2, 2.0), maps(1, 1.5, -4.6), ())


def numbers(levels: tuple[Tensor, ...], image: int, cell: Cell) -> list[float]:
    return levels[cell.level][image, :, cell.row, cell.column].tolist()


def anchor_of(cell: Cell, outputs: GuidedRPNOutputs, image: int) -> list[float]:
    width, height = (
        cell.side * math.exp(SHAPE_STD * value) for value in numbers(outputs.shapes, image, cell)
    )
    half_w, half_h = width / 2, height / 2
    return [cell.x - half_w, cell.y - half_h, cell.x + half_w, cell.y + half_h]


def approximations_of(cell: Cell) -> list[list[float]]:
    boxes = []
    for ratio in (0.5, 1.0, 2.0):
        for octave in range(3):
            scale = cell.side * 2 ** (octave / 3)
            width, height = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
            boxes.append(
                [cell.x - width / 2, cell.y - height / 2, cell.x + width / 2, cell.y + height / 2]
            )
    return boxes


def is_inside(cell: Cell, size: tuple[int, int]) -> bool:
    return cell.x < size[1] and cell.y < size[0]


def assigned(iou: list[list[float]]) -> list[int | None]:
    """Object of each row of overlaps, -1: background, None: neither."""
    found: list[int | None] = []
    for row in iou:
        best = max(row)
        found.append(row.index(best) if best >= 0.7 else -1 if best < 0.3 else None)
    for box in range(len(iou[0])):
        best = max(row[box] for row in iou)
        for place, row in enumerate(iou):
            if best >= 0.3 and row[box] == best:
                found[place] = box
    return found


def smooth(x: float, beta: float) -> float:
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - 0.5 * beta


def center_and_sides(box: list[float]) -> tuple[float, float, float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def anchor_terms(outputs: GuidedRPNOutputs, wanted: list[Target]) -> tuple[float, float, int]:
    """Class and box loss, and the number of positives."""
    classes, box, samples, num_positive = 0.0, 0.0, 0, 0
    for image, own in enumerate(wanted):
        cells = [cell for cell in CELLS if is_inside(cell, own.size)]
        anchors = [anchor_of(cell, outputs, image) for cell in cells]
        objects = assigned(box_iou(torch.tensor(anchors), own.boxes).tolist())
        for cell, anchor, number in zip(cells, anchors, objects, strict=True):
            if number is None:
                continue
            (logit,) = numbers(outputs.class_logits, image, cell)
            classes += math.log1p(math.exp(-logit if number >= 0 else logit))
            if number < 0:
                continue
            x, y, width, height = center_and_sides(anchor)
            a, b, c, d = center_and_sides(own.boxes[number].tolist())
            code = ((a - x) / width, (b - y) / height, math.log(c / width), math.log(d / height))
            mine = numbers(outputs.boxes, image, cell)
            box += sum(smooth(m - t / s, 1.0) for m, t, s in zip(mine, code, STDS, strict=True))
        positives = sum(number is not None and number >= 0 for number in objects)
        samples += max(1, positives) + max(1, objects.count(-1))
        num_positive += positives
    return classes / samples, box / samples, num_positive


def shape_term(outputs: GuidedRPNOutputs, wanted: list[Target]) -> tuple[float, int]:
    total, samples, num_positive = 0.0, 0, 0
    for image, own in enumerate(wanted):
        cells = [cell for cell in CELLS if is_inside(cell, own.size)]
        overlaps = [
            box_iou(torch.tensor(approximations_of(cell)), own.boxes).amax(dim=0).tolist()
            for cell in cells
        ]
        objects = assigned(overlaps)
        for cell, number in zip(cells, objects, strict=True):
            if number is None or number < 0:
                continue
            x, y, width, height = center_and_sides(anchor_of(cell, outputs, image))
            a, b, c, d = center_and_sides(own.boxes[number].tolist())
            for away, side in ((abs(a - x), c), (abs(b - y), d)):
                bound = max(0.0, (side - 2 * away) / (side + 2 * away + 1e-3))
                total += smooth(1 - bound, 0.2)
            for mine, side in ((width, c), (height, d)):
                bound = min(side / (mine + 1e-3), mine / (side + 1e-3))
                total += smooth(1 - bound, 0.2)
        positives = sum(number is not None and number >= 0 for number in objects)
        samples += max(1, positives) + max(1, objects.count(-1))
        num_positive += positives
    return total / samples, num_positive


def region(box: list[float], stride: int, ratio: float) -> tuple[range, range]:
    """Rows and columns of the middle of a box, both ends included."""
    edge = (1 - ratio) / 2
    x1, y1, x2, y2 = (side / stride for side in box)
    columns = (round((1 - edge) * x1 + edge * x2), round(edge * x1 + (1 - edge) * x2))
    rows = (round((1 - edge) * y1 + edge * y2), round(edge * y1 + (1 - edge) * y2))
    return range(max(0, rows[0]), rows[1] + 1), range(max(0, columns[0]), columns[1] + 1)


def location_term(outputs: GuidedRPNOutputs, wanted: list[Target], inverted: bool) -> float:
    total = 0.0
    for image, own in enumerate(wanted):
        is_center, weight, beside = set(), {}, set()
        for box in own.boxes.tolist():
            _, _, width, height = center_and_sides(box)
            level = math.floor(math.log2(math.sqrt(width * height) / (BASE * STRIDES[0])) + 0.5)
            level = min(max(level, 0), len(STRIDES) - 1)
            for ratio, value in ((0.5, 0.0), (0.2, 1.0)):
                rows, columns = region(box, STRIDES[level], ratio)
                places = [(level, row, column) for row in rows for column in columns]
                weight |= dict.fromkeys(places, value)
                is_center |= set(places) if ratio == 0.2 else set()
            for other in (level - 1, level + 1):
                if 0 <= other < len(STRIDES):
                    rows, columns = region(box, STRIDES[other], 0.5)
                    beside |= {(other, row, column) for row in rows for column in columns}
        for cell in CELLS:
            place = (cell.level, cell.row, cell.column)
            factor = weight.get(place, 0.0 if place in beside else 0.1)
            (logit,) = numbers(outputs.locations, image, cell)
            p = 1 / (1 + math.exp(-logit))
            if (place in is_center) != inverted:
                total -= factor * 0.25 * (1 - p) ** 2 * math.log(p)
            else:
                total -= factor * 0.75 * p**2 * math.log(1 - p)
    return total / (len(wanted) * len(CELLS) / 200)


@pytest.mark.parametrize("location_target", ["center", "rest"])
def test_losses_are_those_of_plain_loops(location_target: str) -> None:
    model = small("ga_faster_rcnn", {"rpn": {"guidance": {"location_target": location_target}}})
    outputs, wanted = random_outputs(), targets()
    got = model.rpn.loss(outputs, wanted, CANVAS)
    classes, box, num_anchors = anchor_terms(outputs, wanted)
    shape, num_shapes = shape_term(outputs, wanted)
    assert num_anchors > 5
    assert num_shapes > 5
    want = {
        "rpn_class": classes,
        "rpn_box": box,
        "rpn_location": location_term(outputs, wanted, location_target == "rest"),
        "rpn_shape": shape,
    }
    assert set(got) == set(want)
    for term, value in want.items():
        assert got[term].item() == pytest.approx(value, rel=1e-4), term


def proposals_of(outputs: GuidedRPNOutputs, image: int, *, filtered: bool) -> list[list[float]]:
    """Level by level: the best 60 cells with an anchor, decoded, cut, one by one suppressed; then
    the best 50 of all."""
    height, width = SIZES[image]
    pairs: list[tuple[float, list[float]]] = []
    for level in range(len(STRIDES)):
        found = []
        for cell in (cell for cell in CELLS if cell.level == level):
            (location,) = numbers(outputs.locations, image, cell)
            if filtered and 1 / (1 + math.exp(-location)) < THRESHOLD:
                continue
            (logit,) = numbers(outputs.class_logits, image, cell)
            x, y, w, h = center_and_sides(anchor_of(cell, outputs, image))
            dx, dy, dw, dh = (
                d * s for d, s in zip(numbers(outputs.boxes, image, cell), STDS, strict=True)
            )
            x, y, w, h = x + dx * w, y + dy * h, w * math.exp(dw), h * math.exp(dh)
            box = [
                min(max(x - w / 2, 0), width),
                min(max(y - h / 2, 0), height),
                min(max(x + w / 2, 0), width),
                min(max(y + h / 2, 0), height),
            ]
            found.append((logit, box))
        kept: list[list[float]] = []
        for logit, box in sorted(found, key=lambda pair: -pair[0])[:60]:
            overlaps = box_iou(torch.tensor([box]), torch.tensor(kept).reshape(-1, 4)).flatten()
            if box[2] > box[0] and box[3] > box[1] and not (overlaps > 0.7).any():
                kept.append(box)
                pairs.append((logit, box))
    return [box for _, box in sorted(pairs, key=lambda pair: -pair[0])[:50]]


@pytest.mark.parametrize("training", [True, False])
def test_proposals_are_those_of_a_plain_loop(training: bool) -> None:
    """In inference each image has its own cells without an anchor; in training none has."""
    limits = {"topk_per_level": 60, "max_per_image": 50}
    changes = {"rpn": {"proposals": {"train": limits, "test": limits}}}
    model = small("ga_faster_rcnn", changes).train(training)
    outputs = random_outputs()
    found = model.rpn.propose(outputs, CANVAS, SIZES)
    for image, boxes in enumerate(found.boxes):
        want = proposals_of(outputs, image, filtered=not training)
        torch.testing.assert_close(boxes, torch.tensor(want), rtol=1e-4, atol=1e-3)
        assert want != proposals_of(outputs, image, filtered=training)


def test_no_place_is_probable() -> None:
    """An image without anchors has no proposals, and then no candidates; the others have theirs."""
    model = small("ga_faster_rcnn", {"score_threshold": 0.0}).eval()
    outputs = random_outputs()
    for level in outputs.locations:
        level[0] = -9.0
    with torch.no_grad():
        model.rpn.forward = lambda maps: outputs
        found = model.decode(model(batch()), SIZES)
    assert len(found[0].scores) == 0
    assert len(found[1].scores) > 0


def test_shapes_learn_from_their_own_loss_alone() -> None:
    """Anchors, and the offsets of the adaption, are constants for the other losses."""
    model = small("ga_faster_rcnn")
    losses = model.loss(model(batch(), some_targets()), some_targets())
    own = losses.pop("rpn_shape")
    weight = model.rpn.shape.weight
    others = sum(losses.values())
    assert torch.autograd.grad(others, weight, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(own, weight)[0].abs().max() > 0


def test_features_are_adapted_to_the_shape() -> None:
    """The deformable convolution looks where a 1x1 convolution of the shape says."""
    rpn = small("ga_faster_rcnn").rpn
    x = torch.randn(1, 64, 6, 8)
    with torch.no_grad():
        rpn.conv.weight.normal_(std=0.05)
        rpn.adaption.offset.weight.zero_()
        hidden = F.relu(rpn.conv(x))
        features = F.relu(F.conv2d(hidden, rpn.adaption.conv.weight, padding=1))
        logits = rpn([x]).class_logits[0]
    torch.testing.assert_close(logits, rpn.class_logits(features), rtol=1e-4, atol=1e-5)
