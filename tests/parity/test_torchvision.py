"""torchvision's own RetinaNet and FCOS, given the same random weights, must say the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from detcli.weights import convert_torchvision, recognise_torchvision
from tests.fixtures.reference import num_agreeing
from tests.models.specs import FCOS_TORCHVISION, RETINANET_TORCHVISION, detector

pytestmark = pytest.mark.slow

SIZES = [(160, 224), (192, 200)]  # in one batch of 192 x 224: P7 is 2 x 2, so its step is no stride
CASES = {
    "retinanet": (detection.retinanet_resnet50_fpn, RETINANET_TORCHVISION),
    "fcos": (detection.fcos_resnet50_fpn, FCOS_TORCHVISION),
}


def peer_of(name: str, num_classes: int) -> nn.Module:
    """torchvision's detector with weights that make it see something, norms included."""
    torch.manual_seed(1)
    peer = CASES[name][0](
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=192, max_size=224
    ).eval()
    with torch.no_grad():
        for key, value in peer.state_dict().items():
            if key.endswith("running_mean"):
                value.uniform_(-0.2, 0.2)
            elif key.endswith("running_var"):
                value.uniform_(0.7, 1.3)
            elif key.endswith(("bn3.weight", "bn3.bias")):
                value.mul_(0.3)
            elif "cls_logits.weight" in key or "bbox_" in key:
                value.normal_(std=0.05)
            elif "conv" in key and "head" in key and value.ndim == 4:
                value.normal_(std=0.03)
    return peer


def images() -> Tensor:
    batch = torch.zeros(len(SIZES), 3, 192, 224)
    for image, (height, width) in enumerate(SIZES):
        batch[image, :, :height, :width] = torch.randn(3, height, width)
    return batch


def peer_run(peer: Any, batch: Tensor) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Its head's outputs, and its detections, without its own resizing and normalising."""
    with torch.no_grad():
        features = list(peer.backbone(batch).values())
        outputs = peer.head(features)
        listed = ImageList(batch, SIZES)
        anchors = peer.anchor_generator(listed, features)
        per_level = [level.shape[-2] * level.shape[-1] for level in features]
        share = outputs["cls_logits"].shape[1] // sum(per_level)
        counts = [cells * share for cells in per_level]
        split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        anchors = [list(rows.split(counts)) for rows in anchors]
        return outputs, peer.postprocess_detections(split, anchors, SIZES)


def flat(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """Maps (B, A * width, h, w) as torchvision lists them: (B, P, width)."""
    rows = [
        level.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels
    ]
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_classes", [91, 7])
def test_same_outputs_and_detections(name: str, num_classes: int) -> None:
    peer = peer_of(name, num_classes)
    batch = images()
    want, detections = peer_run(peer, batch)
    weights = peer.state_dict()
    facts = recognise_torchvision(read_state(weights), "memory")
    assert facts.detector == name
    assert facts.depth == 50
    assert facts.num_classes == (80 if num_classes == 91 else 7)

    model = detector(name, CASES[name][1], num_classes=facts.num_classes).eval()
    report = convert_torchvision(weights, model)
    assert set(report.names) == set(weights)
    with torch.no_grad():
        outputs = model(batch)
        candidates = model.decode(outputs, SIZES)

    categories = detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    real = [i for i, word in enumerate(categories) if word not in ("N/A", "__background__")]
    kept = real if num_classes == 91 else list(range(num_classes))
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(
        flat(outputs.class_logits, facts.num_classes), want["cls_logits"][..., kept], **close
    )
    torch.testing.assert_close(flat(outputs.boxes, 4), want["bbox_regression"], **close)
    if name == "fcos":
        torch.testing.assert_close(flat(outputs.centerness, 1), want["bbox_ctrness"], **close)
    for found, theirs in zip(candidates, detections, strict=True):
        if num_classes == 91:  # they also detect classes that do not exist
            continue
        left = (theirs["boxes"][:, 2:] > theirs["boxes"][:, :2]).all(dim=1)  # they keep empty boxes
        keep = batched_nms(found.boxes, found.scores, found.labels, peer.nms_thresh)
        keep = keep[: left.sum()]
        assert left.sum() == len(keep) > 20
        agreeing = num_agreeing(
            (theirs["boxes"][left], theirs["scores"][left], theirs["labels"][left]),
            (found.boxes[keep], found.scores[keep], found.labels[keep]),
        )
        assert agreeing >= 0.98 * len(keep)


def read_state(tensors: dict[str, Tensor]) -> Any:
    from detcli.weights import PublicWeights

    return PublicWeights(tensors, None)
