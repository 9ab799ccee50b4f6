"""Forward, with the losses of all decoder layers, and backward of DETR and Deformable DETR (R50) by
turns with transformers', on the same weights and input, in one thread.

    python -m tests.benchmarks.transformer_process DETECTOR

prints the median seconds of both sides and the ratio as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from detcli.types import Target
from detcli.weights import convert_transformers
from tests.benchmarks.pairs import Pair, by_turns
from tests.models.specs import detector, target

ROUNDS = 5
NUM_CLASSES = 80
SIZES = [(320, 416), (288, 384)]
CANVAS = SIZES[0]
OBJECTS = 8
DROPOUT = 0.1


def build_peer(name: str) -> nn.Module:
    """As published, with timm's ResNet-50: with its own, the library freezes all stages. Dropout
    also where the authors' code and ours have it and the library's defaults do not."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"use_pretrained_backbone": False, "num_labels": NUM_CLASSES}
    common |= {"attention_dropout": DROPOUT, "activation_dropout": DROPOUT, "dropout": DROPOUT}
    if name == "detr":
        config = transformers.DetrConfig(**common, auxiliary_loss=False)
        peer: nn.Module = transformers.DetrForObjectDetection(config)
        return peer
    config = transformers.DeformableDetrConfig(**common, auxiliary_loss=True)
    peer = transformers.DeformableDetrForObjectDetection(config)
    return peer


def build_batch() -> tuple[Tensor, Tensor, list[Target]]:
    """Images with padding, the mask of what is none, and objects."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(SIZES), 3, *CANVAS, generator=generator)
    mask = torch.zeros(len(SIZES), *CANVAS, dtype=torch.long)
    targets = []
    for index, (height, width) in enumerate(SIZES):
        images[index, :, height:] = 0
        images[index, :, :, width:] = 0
        mask[index, :height, :width] = 1
        low = torch.rand(OBJECTS, 2, generator=generator) * 0.6
        boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator)], 1)
        pixels = boxes * torch.tensor([width, height, width, height])
        labels = torch.randint(NUM_CLASSES, (OBJECTS,), generator=generator)
        targets.append(target(pixels.tolist(), labels.tolist(), (height, width)))
    return images, mask, targets


def their_labels(targets: list[Target]) -> list[dict[str, Tensor]]:
    """Targets in shares of the image, centre and sides."""
    labels = []
    for one in targets:
        height, width = one.size
        corners = one.boxes / torch.tensor([width, height, width, height])
        center, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        labels.append({"class_labels": one.labels, "boxes": torch.cat([center, sides], dim=1)})
    return labels


def main(name: str) -> Pair:
    torch.set_num_threads(1)
    theirs, ours = build_peer(name), detector(name, {}, num_classes=NUM_CLASSES)
    convert_transformers(theirs.state_dict(), ours)
    images, mask, targets = build_batch()
    labels = their_labels(targets)
    same_outputs(ours.eval(), theirs.eval(), images, mask)
    assert num_learning(ours) == num_learning(theirs)
    theirs.config.auxiliary_loss = True  # all decoder layers, as ours
    ours.train()
    theirs.train()

    def our_step() -> None:
        ours.zero_grad()
        sum(ours.loss(ours(images, targets), targets).values()).backward()

    def their_step() -> None:
        theirs.zero_grad()
        theirs(pixel_values=images, pixel_mask=mask, labels=labels).loss.backward()

    return by_turns(our_step, their_step, rounds=ROUNDS)


def same_outputs(ours: nn.Module, theirs: nn.Module, images: Tensor, mask: Tensor) -> None:
    with torch.no_grad():
        mine = ours(images, sizes=SIZES)
        want: Any = theirs(pixel_values=images, pixel_mask=mask)
    torch.testing.assert_close(mine.class_logits[-1], want.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mine.boxes[-1], want.pred_boxes, rtol=1e-3, atol=1e-3)


def num_learning(model: nn.Module) -> int:
    """Numbers that a gradient is computed for."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])._asdict()))
