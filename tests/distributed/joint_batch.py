"""The batches and the detectors that the distributed tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detcli.layers.norm import use_running_statistics
from detcli.models import ssd
from detcli.types import Target
from tests.models.specs import SMALL_OF, detector, thin_vgg

NUM_CLASSES = 3
SIZE = (64, 64)
# Objects of each image: 0 and 1 belong to rank 0, 2 and 3 to rank 1.
KINDS = {
    "full": (3, 1, 2, 5),
    "empty rank": (3, 1, 0, 0),
    "empty": (0, 0, 0, 0),
    "sizes, empty rank": (3, 1, 0, 0),
}
# What is no padding of each image, where `KINDS` says so.
SIZES = ((64, 24), (64, 64), (20, 64), (8, 8))
# Nothing is left to chance, except in two-stage detectors, whose small ones draw no samples anyway.
CHANGES: dict[str, dict[str, Any]] = {"ga_retinanet": {"guidance": {"sampler": {"num": None}}}}
# Name of a case -> detector and changes: every detector, and other losses of some.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, CHANGES.get(name, {})) for name in SMALL_OF},
    "two heads": ("atss", {"auxiliary": {}, "iou_branch": {}}),
    "yolov4 scaled": ("yolov4", {"loss": {"name": "scaled"}}),
}
# Of detectors that look at images' sizes also with images of very different ones.
COMBINATIONS = [
    (case, kind)
    for case in CASES
    for kind in KINDS
    if kind != "sizes, empty rank" or case in ("detr", "deformable_detr")
]


def build(case: str) -> nn.Module:
    """A small detector whose batch norms use running statistics: these do not depend on how a
    batch is split over ranks."""
    name, changes = CASES[case]
    ssd.BACKBONES["vgg16"] = thin_vgg
    model = detector(name, SMALL_OF[name], changes, num_classes=NUM_CLASSES).train()
    use_running_statistics(model)
    return model


def joint_batch(kind: str) -> tuple[Tensor, list[Target]]:
    """Four images with objects, some of which have none."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, *SIZE, generator=generator)
    targets = []
    sizes = SIZES if kind.startswith("sizes") else (SIZE,) * len(images)
    for image, (count, (height, width)) in enumerate(zip(KINDS[kind], sizes, strict=True)):
        images[image, :, height:] = 0
        images[image, :, :, width:] = 0
        corners = torch.rand(count, 2, generator=generator) * 30
        sides = 8 + 20 * torch.rand(count, 2, generator=generator)
        labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
        boxes = torch.cat([corners, corners + sides], dim=1)
        boxes = boxes.minimum(torch.tensor([width - 8.0, height - 8.0, width, height]))
        targets.append(Target(boxes, labels, torch.zeros(0, 4), (height, width)))
    return images, targets


def gradients(
    model: nn.Module, detector: nn.Module, images: Tensor, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Of every parameter of the detector, whose forward pass is that of `model`."""
    detector.zero_grad()
    losses = detector.loss(model(images, targets), targets)
    torch.stack(list(losses.values())).sum().backward()
    return {key: value.grad.clone() for key, value in detector.named_parameters()}
