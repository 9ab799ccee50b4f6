"""The first stage: proposals, and which anchors learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from detcli.assign import IGNORED, NEGATIVE
from detcli.models.dense.prior_grid import build_anchors
from detcli.models.two_stage.rpn import ProposalRule
from detcli.ops.coders import DeltaCoder
from detcli.recipe.sections.models.two_stage import Limits, Proposals
from detcli.recipe.sections.priors import Anchors
from tests.models.specs import target
from tests.models.two_stage.small import (
    CANVAS,
    batch,
    each_detector,
    small,
    some_targets,
    wide_awake,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# Proposals


def test_proposals_are_those_of_a_plain_loop() -> None:
    """Level by level: sort, decode, cut, drop thin ones, suppress one by one; then the best."""
    grid = build_anchors((8, 16), Anchors(base_scale=3.0, scales_per_octave=1, ratios=(0.5, 1, 2)))
    maps = [torch.zeros(1, 3, 12, 16), torch.zeros(1, 3, 6, 8)]
    priors = grid(maps, CANVAS).split()
    generator = torch.Generator().manual_seed(1)
    scores = [torch.rand(len(level), generator=generator) for level in priors]
    scores[0][3:9] = 0.97  # ties
    deltas = [torch.randn(len(level), 4, generator=generator) * 0.5 for level in priors]
    size = (80, 120)
    limits = Limits(topk_per_level=150, max_per_image=40)
    rule = ProposalRule(Proposals(iou_threshold=0.5, min_side_px=2.0), DeltaCoder())
    found, places = rule.select(scores, deltas, priors, limits, size)

    pairs: list[tuple[float, list[float]]] = []
    for level in range(2):
        order = sorted(range(len(scores[level])), key=lambda row: (-float(scores[level][row]), row))
        decoded = DeltaCoder().decode(deltas[level], priors[level]).clamp(min=0)
        decoded = decoded.minimum(torch.tensor([120.0, 80, 120, 80]))
        iou = box_iou(decoded, decoded).tolist()
        kept: list[int] = []
        for row in order[:150]:
            x1, y1, x2, y2 = decoded[row].tolist()
            thick = x2 - x1 > 2 and y2 - y1 > 2
            if thick and all(iou[row][other] <= 0.5 for other in kept):
                kept.append(row)
                pairs.append((float(scores[level][row]), [x1, y1, x2, y2]))
    best = sorted(pairs, key=lambda pair: -pair[0])[:40]
    torch.testing.assert_close(found, torch.tensor([box for _, box in best]))
    assert len(found) == 40
    assert torch.cat(scores)[places].tolist() == [score for score, _ in best]


@each_detector
def test_proposals_lie_in_their_image_and_carry_no_gradient(name: str) -> None:
    model = wide_awake(small(name)).train()
    outputs = model(batch(), some_targets())
    proposals = model.rpn.propose(outputs.first.rpn, CANVAS, [CANVAS, (64, 96)])
    assert proposals.densities == ()
    for boxes, (height, width) in zip(proposals.boxes, [CANVAS, (64, 96)], strict=True):
        assert 0 < len(boxes) <= 50
        assert not boxes.requires_grad
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


def test_limits_of_training_and_evaluation() -> None:
    proposals = {"train": {"max_per_image": 30}, "test": {"max_per_image": 10}}
    model = wide_awake(small("faster_rcnn", {"rpn": {"proposals": proposals}}))
    counts = []
    for mode in (True, False):
        outputs = model.train(mode)(batch())
        counts.append([len(boxes) for boxes in outputs.stages[0].regions])
    assert counts == [[30, 30], [10, 10]]


def test_boxes_of_two_levels_do_not_suppress_each_other() -> None:
    box = torch.tensor([[10.0, 10, 40, 40]])
    grid = build_anchors((8, 16), Anchors(base_scale=3.0, scales_per_octave=1, ratios=(1,)))
    priors = grid([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)], CANVAS).split()
    deltas = [DeltaCoder().encode(box.expand(len(level), 4), level) for level in priors]
    scores = [torch.tensor([0.1, 0.9, 0.2, 0.3]), torch.tensor([0.8])]
    limits = Limits(topk_per_level=10, max_per_image=10)
    rule = ProposalRule(Proposals(iou_threshold=0.5), DeltaCoder())
    found, _ = rule.select(scores, deltas, priors, limits, CANVAS)
    torch.testing.assert_close(found, box.repeat(2, 1))


# Which anchors learn


@pytest.mark.parametrize("trained", ["all", "cell_inside", "box_inside"])
def test_which_anchors_learn(trained: str) -> None:
    """Against the overlaps of all anchors with all boxes, anchor by anchor."""
    model = small("faster_rcnn", {"rpn": {"trained_anchors": trained}})
    outputs = model.rpn([torch.zeros(2, 64, *cells) for cells in ((12, 16), (6, 8), (3, 4))])
    priors = model.rpn.anchors(outputs.boxes, CANVAS)
    targets = [some_targets()[0], target([[20, 10, 40, 50]], [1], (64, 64))]
    matched = model.rpn._assign(priors, targets)
    for row, wanted in zip(matched, targets, strict=True):
        height, width = wanted.size
        x1, y1, x2, y2 = priors.boxes.unbind(1)
        seen = {
            "all": torch.ones_like(x1, dtype=torch.bool),
            "cell_inside": (priors.centers[:, 0] < width) & (priors.centers[:, 1] < height),
            "box_inside": (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height),
        }[trained]
        assert torch.equal(row == IGNORED, (row == IGNORED) & (row < 0))
        assert (row[~seen] == IGNORED).all()
        iou = box_iou(priors.boxes[seen], wanted.boxes)
        best, box = iou.max(dim=1)
        want = torch.full_like(row[seen], IGNORED)
        want[best < 0.3] = NEGATIVE
        want[best >= 0.7] = box[best >= 0.7]
        for index in range(len(wanted.boxes)):
            if iou[:, index].max() >= 0.3:
                want[iou[:, index] == iou[:, index].max()] = index
        assert torch.equal(row[seen], want)


def test_an_image_without_objects_counts_in_the_first_stage() -> None:
    """All its anchors are background: the class loss is the mean binary cross entropy of zero."""
    model = small("faster_rcnn")
    for part in (model.rpn.class_logits, model.rpn.box):
        nn.init.zeros_(part.weight)
    outputs = model(batch(), [target([], [], CANVAS)] * 2)
    losses = model.rpn.loss(outputs.first.rpn, [target([], [], CANVAS)] * 2, CANVAS)
    anchors = 3 * (12 * 16 + 6 * 8 + 3 * 4)
    want = 2 * anchors * torch.log(torch.tensor(2.0)) / (2 * (anchors + 1))
    torch.testing.assert_close(losses["rpn_class"], want)
    assert losses["rpn_box"] == 0
