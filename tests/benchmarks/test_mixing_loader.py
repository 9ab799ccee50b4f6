"""Mosaic, mixup, flip and resize in images/s per worker against the pipeline of ultralytics.

ultralytics is installed by `make bench` only: it is used here and nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detcli.data.cache import ImageCache
from detcli.data.dataset import DetectionDataset
from detcli.data.formats.read import read_records
from detcli.data.loader import build_loader
from detcli.data.records import Records
from detcli.data.transforms import build_transforms
from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import by_turns
from tests.data.build import loading
from tests.paths import SHARED, needs_shared

SIDE, BATCH, WORKERS, ROUNDS = 640, 4, 1, 5
AUGMENT = {
    "mosaic": {"prob": 1.0, "scale": [0.5, 1.0]},
    "mixup": {"prob": 1.0, "alpha": 32.0},
    "flip": {"horizontal": 0.5, "vertical": 0.0},
}


@pytest.fixture(scope="module")
def records() -> Records:
    root = str(SHARED / "data/bccd-voc")
    return read_records(format="voc", root=root, split={"split": "train"}, name="train")


def ours(records: Records, cache: str) -> Callable[[], int]:
    transforms = build_transforms(
        resize={"short": [SIDE], "long": SIDE, "pick": "choice", "eval_short": None},
        augment=AUGMENT,
        train=True,
    )
    images = None
    if cache == "ram":
        images = ImageCache(records, shared=True)
        images.fill(1, lambda count: None)
    loader = build_loader(
        DetectionDataset(records, transforms, seed=0, cache=images),
        loading(
            workers=WORKERS,
            prefetch_factor=2,
            persistent_workers=True,
            group_by_aspect=True,
            pad_multiple=32,
        ),
        batch_per_rank=BATCH,
        shuffle=True,
    )
    return lambda: sum(len(batch.images) for batch in loader.start(0))


def theirs(records: Records, cache: str, folder: Path) -> Callable[[], int]:
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader
    from ultralytics.data.dataset import YOLODataset

    write_yolo(records, folder)
    off = dict.fromkeys(
        (
            "degrees",
            "translate",
            "scale",
            "shear",
            "perspective",
            "hsv_h",
            "hsv_s",
            "hsv_v",
            "flipud",
            "copy_paste",
            "cutmix",
            "bgr",
        ),
        0.0,
    )
    settings = get_cfg(overrides={**off, "mosaic": 1.0, "mixup": 1.0, "fliplr": 0.5, "imgsz": SIDE})
    dataset = YOLODataset(
        img_path=str(folder / "images"),
        data={
            "names": dict(enumerate(records.class_names)),
            "nc": len(records.class_names),
            "channels": 3,
        },
        task="detect",
        imgsz=SIDE,
        augment=True,
        hyp=settings,
        rect=False,
        batch_size=BATCH,
        cache="ram" if cache == "ram" else False,
    )
    # without the augmentations of the albumentations library, which it adds where it is installed
    dataset.transforms.transforms = [
        step for step in dataset.transforms.transforms if type(step).__name__ != "Albumentations"
    ]
    loader = build_dataloader(dataset, BATCH, WORKERS, shuffle=True)
    return lambda: sum(len(batch["img"]) for batch in loader)


def write_yolo(records: Records, folder: Path) -> None:
    """The same files under another name, with labels beside them."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(len(records)):
        path = Path(records.path(index)).resolve()
        os.symlink(path, folder / "images" / path.name)
        height, width = records.size(index)
        rows = records.rows(index)
        lines = [
            f"{label} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            for (x, y, w, h), label in zip(
                records.boxes_xywh[rows].tolist(), records.labels[rows].tolist(), strict=True
            )
        ]
        (folder / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))


@pytest.mark.bench
@pytest.mark.usefixtures("one_thread")
@needs_shared
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_mosaic_and_mixup_against_ultralytics(
    cache: str, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    pytest.importorskip("ultralytics", reason="ultralytics is not installed: make bench does it")
    runs = ours(records, cache), theirs(records, cache, tmp_path)
    counts = [run() for run in runs]
    pair = by_turns(*runs, rounds=ROUNDS, clock=time.perf_counter)
    table.add(
        f"mosaic + mixup + flip + resize, 640 x 480 JPEGs to {SIDE}, cache {cache}, 1 worker",
        f"{counts[0] / pair.ours:.0f} images/s",
        f"ultralytics {counts[1] / pair.theirs:.0f} images/s",
        pair.ratio * counts[0] / counts[1],
        at_least=1.2,
        floor=0.9,
    )
