"""Loader images/s against the data pipeline of torchvision's detection reference scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from detcli.data.dataset import DetectionDataset
from detcli.data.formats.read import read_records
from detcli.data.loader import build_loader
from detcli.data.records import Records
from detcli.data.to_device import to_device
from detcli.data.transforms import build_transforms
from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import by_turns
from tests.data.build import loading
from tests.paths import SHARED, needs_shared

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BATCH, ROUNDS = 4, 5


class Reference(Dataset[Any]):
    """What references/detection does with `--data-augmentation hflip --backend pil`."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.transforms = v2.Compose(
            [v2.RandomHorizontalFlip(p=0.5), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(self.records.path(index)).convert("RGB")
        rows = self.records.rows(index)
        boxes = torch.from_numpy(self.records.boxes_xywh[rows].copy()).float()
        boxes[:, 2:] += boxes[:, :2]
        height, width = self.records.size(index)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(self.records.labels[rows].copy()),
        }
        return self.transforms(image, target)


def _tuples(batch: list[Any]) -> Any:
    return tuple(zip(*batch, strict=True))


def _reference(records: Records, short: int, long: int, workers: int) -> Callable[[], int]:
    loader = DataLoader(
        Reference(records),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=_tuples,
        persistent_workers=workers > 0,
    )
    finish = GeneralizedRCNNTransform(
        short, long, [value / 255 for value in MEAN], [value / 255 for value in STD]
    )

    def epoch() -> int:
        count = 0
        for images, targets in loader:
            count += len(finish(list(images), list(targets))[0].image_sizes)
        return count

    return epoch


def _ours(records: Records, short: int, long: int, workers: int) -> Callable[[], int]:
    transforms = build_transforms(
        resize={"short": [short], "long": long, "pick": "choice", "eval_short": None},
        augment={"flip": {"horizontal": 0.5, "vertical": 0.0}},
        train=True,
    )
    loader = build_loader(
        DetectionDataset(records, transforms, seed=0),
        loading(
            workers=workers,
            prefetch_factor=2,
            persistent_workers=True,
            group_by_aspect=True,
            pad_multiple=32,
        ),
        batch_per_rank=BATCH,
        shuffle=True,
    )

    def epoch() -> int:
        count = 0
        for batch in loader.start(0):
            images, _ = to_device(batch, "cpu", mean=MEAN, std=STD, channels="rgb")
            count += len(images)
        return count

    return epoch


@pytest.mark.bench
@pytest.mark.usefixtures("one_thread")
@needs_shared
@pytest.mark.parametrize(
    ("short", "long", "workers"), [(320, 533, 2), (800, 1333, 1), (800, 1333, 2)]
)
def test_loader_against_the_reference_pipeline(
    short: int, long: int, workers: int, table: Table
) -> None:
    records = read_records(
        format="voc", root=str(SHARED / "data/bccd-voc"), split={"split": "val"}, name="val"
    )
    runs = _ours(records, short, long, workers), _reference(records, short, long, workers)
    counts = [run() for run in runs]
    pair = by_turns(*runs, rounds=ROUNDS, clock=time.perf_counter)
    table.add(
        f"loader, 640 x 480 JPEGs to short side {short}, {workers} workers",
        f"{counts[0] / pair.ours:.0f} images/s",
        f"torchvision {counts[1] / pair.theirs:.0f} images/s",
        pair.ratio * counts[0] / counts[1],
        at_least=2,
        floor=1.2,
    )
