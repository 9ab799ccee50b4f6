"""The peer of `recipes/*_r18_bccd.yaml`: torchvision's own FCOS on the same images.

    python -m tests.benchmarks.peer_bccd ../shared/data/bccd-voc --seeds 0,1

ResNet-18-FPN from scratch, 320x240, 12 epochs, horizontal flip, AdamW 5e-4, cosine: torchvision's
model, losses, anchors and inference; images, batch size and pycocotools' evaluation as for ours.
"""

from __future__ import annotations

import argparse
import math
import time

import cv2
import numpy as np
import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detcli.data.formats.read import read_records
from detcli.data.records import Records
from detcli.evaluation import evaluate_coco
from detcli.layers.conv import Conv2d
from detcli.types import Detections

WIDTH, HEIGHT = 320, 240


def load(root: str, split: str) -> Records:
    return read_records(format="voc", root=root, split={"split": split}, name=split)


def image_of(records: Records, index: int) -> torch.Tensor:
    pixels = cv2.cvtColor(cv2.imread(records.path(index)), cv2.COLOR_BGR2RGB)
    small = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(small).permute(2, 0, 1).float() / 255


def target_of(records: Records, index: int) -> dict[str, torch.Tensor]:
    rows = records.rows(index)
    height, width = records.size(index)
    boxes = records.boxes_xywh[rows] * np.tile([WIDTH / width, HEIGHT / height], 2)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": torch.from_numpy(boxes).float(),
        "labels": torch.from_numpy(records.labels[rows].copy()) + 1,
    }


def flipped(image: torch.Tensor, target: dict[str, torch.Tensor]):
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = WIDTH - boxes[:, [2, 0]]
    return image.flip(2), target | {"boxes": boxes}


def build(num_classes: int) -> FCOS:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return FCOS(
        backbone,
        num_classes + 1,
        min_size=HEIGHT,
        max_size=WIDTH,
        score_thresh=0.05,
        nms_thresh=0.6,
        detections_per_img=100,
    )


def hasten(model: FCOS) -> FCOS:
    """The same model in less time on a CPU: memory layout, and 3x3 convolutions by an algorithm
    whose results differ by rounding (1e-5 of the largest value)."""
    torch.set_flush_denormal(True)
    for module in model.modules():
        if type(module) is torch.nn.Conv2d and module.kernel_size == (3, 3):
            assert module.padding == (1, 1)
            module.__class__ = Conv2d
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(model: FCOS, records: Records) -> dict[str, float | None]:
    model.eval()
    parts = []
    for index in range(len(records)):
        found = model([image_of(records, index)])[0]
        height, width = records.size(index)
        boxes = found["boxes"].double().numpy() * np.tile([width / WIDTH, height / HEIGHT], 2)
        boxes[:, 2:] -= boxes[:, :2]
        parts.append(
            Detections(
                np.array([0, len(boxes)]),
                boxes,
                found["scores"].double().numpy(),
                found["labels"].numpy() - 1,
            )
        )
    return evaluate_coco(records.ground_truth(), Detections.join(parts)).metrics


def run(root: str, seed: int, epochs: int, batch: int) -> dict[str, float | None]:
    torch.manual_seed(seed)
    records, held_out = load(root, "train"), load(root, "val")
    images = [image_of(records, index) for index in range(len(records))]
    targets = [target_of(records, index) for index in range(len(records))]
    model = hasten(build(records.num_classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    steps = math.ceil(len(images) / batch) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        total: dict[str, float] = {}
        for chosen in torch.randperm(len(images)).split(batch):
            pairs = [(images[index], targets[index]) for index in chosen.tolist()]
            pairs = [flipped(*pair) if torch.rand(()) < 0.5 else pair for pair in pairs]
            losses = model([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + value.item() / (steps // epochs)
        means = " ".join(f"{name} {value:.3f}" for name, value in total.items())
        seconds = time.perf_counter() - started
        print(f"seed {seed} epoch {epoch + 1} {seconds:.0f} s, {means}", flush=True)
    return evaluate(model, held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        metrics = run(arguments.root, seed, arguments.epochs, arguments.batch)
        shown = " ".join(
            f"{name} {value:.4f}" for name, value in metrics.items() if value is not None
        )
        print(f"torchvision FCOS R18, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
