"""torchvision's own Faster R-CNN, given the same random weights, must say the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from detcli.errors import CheckpointError
from detcli.weights import PublicWeights, convert_torchvision, recognise_torchvision
from tests.fixtures.reference import num_agreeing
from tests.models.specs import FASTER_TORCHVISION, KEEP_ALL, detector, target

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SIZES = [(160, 224), (192, 200)]  # in one batch of 192 x 224: P6 is 3 x 4, so its step is no stride
FEW = {
    "rpn": {
        "proposals": {
            "train": {"topk_per_level": 200, "max_per_image": 60},
            "test": {"topk_per_level": 200, "max_per_image": 60},
        }
    }
}
NUM_CLASSES = 6


@pytest.fixture(scope="module")
def peer() -> Any:
    """torchvision's detector with weights that make it see something, norms included; everything
    that it would sample is kept."""
    torch.manual_seed(1)
    few = {
        f"rpn_{when}_nms_top_n_{mode}": count
        for when, count in (("pre", 200), ("post", 60))
        for mode in ("train", "test")
    }
    model = detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        **few,
        rpn_batch_size_per_image=10**6,
        box_batch_size_per_image=10**6,
    ).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_mean"):
                value.uniform_(-0.2, 0.2)
            elif key.endswith("running_var"):
                value.uniform_(0.7, 1.3)
            elif key.endswith(("bn3.weight", "bn3.bias")):
                value.mul_(0.3)
            elif key.endswith(("cls_logits.weight", "rpn.head.conv.0.0.weight")):
                value.normal_(std=0.03)
            elif key.endswith(("cls_score.weight", "cls_score.bias")):
                value.normal_(std=0.15)
            elif key.endswith("bbox_pred.weight"):
                value.normal_(std=0.01)
    return model


@pytest.fixture(scope="module")
def model(peer: Any) -> nn.Module:
    """The detector here, with the same weights."""
    weights = peer.state_dict()
    facts = recognise_torchvision(PublicWeights(weights, None), "memory")
    assert (facts.detector, facts.depth, facts.num_classes) == ("faster_rcnn", 50, NUM_CLASSES)
    mine = detector("faster_rcnn", FASTER_TORCHVISION, KEEP_ALL, FEW, num_classes=NUM_CLASSES)
    report = convert_torchvision(weights, mine)
    assert set(report.names) == set(weights)
    assert "background" in report.notes[0]
    return mine.eval()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    batch = torch.zeros(len(SIZES), 3, 192, 224)
    for image, (height, width) in enumerate(SIZES):
        batch[image, :, :height, :width] = torch.randn(3, height, width, generator=generator)
    return batch


def test_same_proposals_and_detections(peer: Any, model: nn.Module) -> None:
    batch = images()
    with torch.no_grad():
        features = peer.backbone(batch)
        proposals, _ = peer.rpn(ImageList(batch, SIZES), features)
        detections, _ = peer.roi_heads(features, proposals, SIZES)
        outputs = model(batch, sizes=SIZES)
        candidates = model.decode(outputs, SIZES)
    for mine, theirs in zip(outputs.first.maps, features.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(outputs.stages[0].regions, proposals, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-2)
    for found, theirs in zip(candidates, detections, strict=True):
        keep = batched_nms(found.boxes, found.scores, found.labels, 0.5)[:100]
        assert len(theirs["scores"]) == len(keep) > 20
        agreeing = num_agreeing(
            (theirs["boxes"], theirs["scores"], theirs["labels"] - 1),
            (found.boxes[keep], found.scores[keep], found.labels[keep]),
        )
        assert agreeing >= 0.98 * len(keep)


def test_same_losses(peer: Any, model: nn.Module) -> None:
    batch = images()
    with torch.no_grad():
        proposals = model(batch, sizes=SIZES).stages[0].regions
    near = [rows[[2, 30]] + torch.tensor([2.0, 1, -1, -3]) for rows in proposals]
    targets = [
        target(boxes.tolist(), [0, 5], size) for boxes, size in zip(near, SIZES, strict=True)
    ]
    theirs = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]
    with torch.no_grad():
        features = peer.backbone(batch)
        peer.rpn.train()
        peer.roi_heads.train()
        proposals, first = peer.rpn(ImageList(batch, SIZES), features, theirs)
        _, second = peer.roi_heads(features, proposals, SIZES, theirs)
        peer.eval()
        model.rpn.train()
        losses = model.loss(model(batch, targets), targets)
        model.eval()
    want = {
        "rpn_class": first["loss_objectness"],
        "rpn_box": first["loss_rpn_box_reg"],
        "class": second["loss_classifier"],
        "box": second["loss_box_reg"],
    }
    for term, value in want.items():
        assert losses[term].item() == pytest.approx(value.item(), rel=1e-4), term
        assert value > 1e-4, term


def test_the_80_classes_of_coco() -> None:
    peer = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {  # as before 0.13, and frozen norms, as published
        key.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in peer.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    facts = recognise_torchvision(PublicWeights(state, None), "memory")
    assert facts.num_classes == len(facts.class_names) == 80
    mine = detector("faster_rcnn", FASTER_TORCHVISION)
    report = convert_torchvision(state, mine)
    assert any("eps 0" in note for note in report.notes)
    logits, boxes = peer.roi_heads.box_predictor.cls_score, peer.roi_heads.box_predictor.bbox_pred
    for row, column in ((0, 1), (79, 90), (80, 0)):  # person, toothbrush, background
        assert torch.equal(mine.head.class_logits.weight[row], logits.weight[column])
    assert torch.equal(mine.head.box.bias[316:], boxes.bias[360:364])


def test_what_is_no_plain_faster_rcnn_is_named() -> None:
    for build, words in (
        (detection.maskrcnn_resnet50_fpn, "torchvision's Mask R-CNN"),
        (detection.fasterrcnn_resnet50_fpn_v2, "a torchvision two-stage detector"),
    ):
        with torch.device("meta"):
            state = build(weights=None, weights_backbone=None).state_dict()
        with pytest.raises(CheckpointError, match=f"looks like {words}"):
            recognise_torchvision(PublicWeights(state, None), "FILE")
