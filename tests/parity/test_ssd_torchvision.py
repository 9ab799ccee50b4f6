"""torchvision's own SSD300, given the same random weights, must say the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou

from detcli.errors import CheckpointError
from detcli.models.dense.decode import Selection
from detcli.weights import PublicWeights, convert_torchvision, recognise_torchvision
from detcli.weights.torchvision import coco_ids
from tests.fixtures.reference import num_agreeing
from tests.models.specs import detector, target

pytestmark = pytest.mark.slow

SIZE = (300, 300)
NUM_CLASSES = 6
TORCHVISION: dict[str, Any] = {"anchors": {"clip": True}, "backbone": {"frozen_stages": 1}}
OBJECTS = [
    ([[30.0, 40, 130, 190], [150, 20, 290, 280], [12, 200, 40, 231]], [0, 5, 2]),
    ([[100.0, 110, 260, 180]], [3]),
]


def peer_of(num_classes: int) -> Any:
    """torchvision's SSD with weights that make it see something."""
    torch.manual_seed(1)
    peer = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
    with torch.no_grad():
        for name, value in peer.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.1)
            elif "module_list" in name:
                value.mul_(0.5)
    return peer.eval()


class Pair:
    """Both models, and what they make of one batch."""

    def __init__(self) -> None:
        self.peer = peer_of(NUM_CLASSES + 1)
        weights = self.peer.state_dict()
        self.facts = recognise_torchvision(PublicWeights(weights, None), "memory")
        self.model = detector("ssd", TORCHVISION, num_classes=NUM_CLASSES).eval()
        self.report = convert_torchvision(weights, self.model)
        images = torch.randn(2, 3, *SIZE)
        with torch.no_grad():
            features = list(self.peer.backbone(images).values())
            self.want = self.peer.head(features)
            self.anchors = self.peer.anchor_generator(ImageList(images, [SIZE] * 2), features)
            self.outputs = self.model(images)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def flat(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """Maps (B, A * width, h, w) as torchvision lists them: (B, P, width)."""
    rows = [
        level.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels
    ]
    return torch.cat(rows, dim=1)


def test_recognised(pair: Pair) -> None:
    facts = pair.facts
    assert (facts.detector, facts.depth, facts.num_classes) == ("ssd", None, NUM_CLASSES)
    assert facts.input_px == 300
    assert set(pair.report.names) == set(pair.peer.state_dict())


def test_same_outputs_and_anchors(pair: Pair) -> None:
    logits = flat(pair.outputs.class_logits, NUM_CLASSES + 1)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(logits[..., -1:], pair.want["cls_logits"][..., :1], **close)
    torch.testing.assert_close(logits[..., :-1], pair.want["cls_logits"][..., 1:], **close)
    torch.testing.assert_close(flat(pair.outputs.boxes, 4), pair.want["bbox_regression"], **close)
    ours = pair.model.anchors(pair.outputs.boxes, SIZE).boxes
    torch.testing.assert_close(ours, pair.anchors[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("second_is_empty", [False, True])
def test_same_losses(pair: Pair, second_is_empty: bool) -> None:
    objects = [OBJECTS[0], ([], []) if second_is_empty else OBJECTS[1]]
    theirs = [
        {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels).long() + 1}
        for boxes, labels in objects
    ]
    matched = [
        pair.peer.proposal_matcher(box_iou(entry["boxes"], anchors))
        if len(entry["boxes"])
        else torch.full((len(anchors),), -1)
        for entry, anchors in zip(theirs, pair.anchors, strict=True)
    ]
    want = pair.peer.compute_loss(theirs, pair.want, pair.anchors, matched)
    mine = pair.model.loss(pair.outputs, [target(boxes, labels, SIZE) for boxes, labels in objects])
    # An image without objects counts as one more here, as in MMDetection.
    positives = sum(int((rows >= 0).sum()) for rows in matched)
    share = positives / (positives + second_is_empty)
    for term, name in (("class", "classification"), ("box", "bbox_regression")):
        assert mine[term].item() == pytest.approx(share * want[name].item(), rel=1e-4), term


def test_same_detections(pair: Pair) -> None:
    scores = pair.want["cls_logits"].softmax(dim=2)[..., 1:]
    threshold = scores.flatten().sort(descending=True).values[1200].item()
    pair.peer.score_thresh = threshold
    wanted = pair.peer.postprocess_detections(pair.want, pair.anchors, [SIZE] * 2)
    pair.model.selection = Selection(threshold, 10_000)
    for found, theirs in zip(pair.model.decode(pair.outputs, [SIZE] * 2), wanted, strict=True):
        keep = batched_nms(found.boxes, found.scores, found.labels, pair.peer.nms_thresh)
        keep = keep[: pair.peer.detections_per_img]
        assert abs(len(theirs["scores"]) - len(keep)) <= 1
        assert len(keep) > 30
        agreeing = num_agreeing(
            (theirs["boxes"], theirs["scores"], theirs["labels"] - 1),
            (found.boxes[keep], found.scores[keep], found.labels[keep]),
        )
        assert agreeing >= 0.98 * len(keep)


def test_the_80_classes_of_coco_and_background(pair: Pair) -> None:
    weights = dict(pair.peer.state_dict())
    for name, value in weights.items():  # the head as it is for 91 outputs
        if "classification_head" in name:
            outputs = value.shape[0] // (NUM_CLASSES + 1) * 91
            weights[name] = torch.randn(outputs, *value.shape[1:])
    facts = recognise_torchvision(PublicWeights(weights, None), "memory")
    assert facts.num_classes == len(facts.class_names or ()) == 80
    model = detector("ssd", TORCHVISION)
    report = convert_torchvision(weights, model)
    assert "left out" in report.notes[0]
    theirs = weights["head.classification_head.module_list.1.bias"].view(6, 91)
    ours = model.head.class_logits[1].bias.view(6, 81)
    assert torch.equal(ours[:, :-1], theirs[:, coco_ids()])
    assert torch.equal(ours[:, -1], theirs[:, 0])


def test_what_does_not_fit_is_named(pair: Pair) -> None:
    weights = dict(pair.peer.state_dict())
    weights["backbone.extra.5.0.weight"] = torch.zeros(1)
    before = pair.model.head.box[0].bias.clone()
    with pytest.raises(CheckpointError, match=r"neck\.squeeze\.4\.weight \[1\] is unexpected"):
        convert_torchvision(weights, pair.model, "FILE")
    assert torch.equal(pair.model.head.box[0].bias, before)
    del weights["head.regression_head.module_list.2.weight"]
    with pytest.raises(CheckpointError, match=r"has head\.classification_head\.module_list\.2"):
        recognise_torchvision(PublicWeights(weights, None), "FILE")
