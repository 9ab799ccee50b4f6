"""Patches into images without objects, written as a COCO data set."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detcli.data.images import read_image
from detcli.data.transforms import Sample
from detcli.data.transforms.blending import Blend, pixels_of
from detcli.data.transforms.duck import Attempt, inject
from detcli.data.transforms.patches import Patch, Patches, write_patches
from detcli.data.transforms.sample import draw_index
from detcli.engine.detect.load import load_trained, measure
from detcli.engine.inject.hard_negatives import collect
from detcli.engine.pictures.preview import Preview, Seen, write_sheet
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import DataError, UsageError

ANNOTATIONS = "annotations.json"
IMAGES = "images"
PATCHES = "patches"
TRIES = "tries.jsonl"
SHEET = "sheet.png"
_JPEG_QUALITY = 95
_PAIRS = 8
_KINDS = ("false_positives", "objects")


@dataclass(frozen=True)
class Settings:
    """How many patches of each kind an image receives at most, and how (see `inject`)."""

    false_positives: int
    objects: int
    places: int
    threshold: float
    blend: Blend
    seed: int


@dataclass
class Injected:
    """What became of images and patches; counts are of (image, patch), each by its kind.

    refused: places were free, but none had enough mutual information; no_room: none was free.
    """

    images: int = 0
    unchanged: int = 0
    unreadable: list[str] = field(default_factory=list)
    placed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    no_room: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))

    def count(self, attempts: Sequence[Attempt]) -> None:
        """Add one image."""
        self.images += 1
        self.unchanged += not any(attempt.placed for attempt in attempts)
        for attempt in attempts:
            outcome = self.refused if attempt.places else self.no_room
            (self.placed if attempt.placed else outcome)[_kind(attempt.patch)] += 1


HEADER = ("", "patches", "placed", "too little mutual information", "no room")


def table_rows(patches: Patches, found: Injected) -> list[list[str]]:
    """One row of text per kind of patch, columns as in HEADER."""
    counts = (len(patches.negatives), len(patches.objects))
    return [
        [
            kind.replace("_", " "),
            str(count),
            *(str(column[kind]) for column in (found.placed, found.refused, found.no_room)),
        ]
        for kind, count in zip(_KINDS, counts, strict=True)
    ]


def to_json(out: Path, patches: Patches, found: Injected) -> dict[str, Any]:
    """The document of `data inject --json`."""
    counts = (len(patches.negatives), len(patches.objects))
    return {"out": str(out), "patches": dict(zip(_KINDS, counts, strict=True)), **asdict(found)}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder of another name, which becomes `out` if nothing goes wrong.

    Raises UsageError where `out` exists and holds anything, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already and is not empty; name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def patches_of_run(
    run: str,
    overrides: Sequence[str],
    split: str,
    ranks: Ranks,
    log: RunLog,
    *,
    min_score: float,
    max_patches: int,
    seed: int,
) -> tuple[Patches, tuple[int, ...]]:
    """Measure a run on a split of its data, and cut out what it wrongly detected and objects; and
    the data's own id of each class. See `collect`.

    Raises DataError where there is nothing to cut out.
    """
    trained = load_trained(run, None, overrides, ranks)
    records, result = measure(trained, split, ranks, log)
    assert result is not None, "data inject runs in one process"
    patches = collect(
        records, result.detections, log, min_score=min_score, max_patches=max_patches, seed=seed
    )
    if not patches.negatives:
        log.say(
            f"{split}: no false positive of score {min_score:g} or more away from every "
            "object; lower --min-score, or use another split"
        )
    if not patches.negatives and not patches.objects:
        raise DataError(
            f"{run}: its {split} split gives no patch, neither false positives nor objects"
        )
    return patches, records.category_ids


def write_injected(
    folder: Path,
    files: Sequence[Path],
    patches: Patches,
    category_ids: Sequence[int],
    settings: Settings,
    log: RunLog,
) -> Injected:
    """Inject into `files`, and write images, annotations, patches, every try, and a sheet of the
    first images before and after; without `files`, only the patches.

    An image that cannot be decoded is said and left out. Raises DataError where that leaves none.
    """
    write_patches(folder / PATCHES, patches)
    result = Injected()
    if not files:
        return result
    (folder / IMAGES).mkdir()
    content = _document(patches.class_names, category_ids)
    pairs: list[Seen] = []
    with (folder / TRIES).open("w", encoding="utf-8") as tries:
        for number, path in enumerate(log.track(files, "inject", len(files), unit="images"), 1):
            try:
                before = _empty_image(path)
            except DataError as error:
                log.say(f"skipped: {error}")
                result.unreadable.append(str(path))
                continue
            after, attempts = _inject_drawn(before, patches, settings, number)
            name = f"{number:06d}_{path.stem}.jpg"
            _write_image(folder / IMAGES / name, after)
            _annotate(content, number, name, after, category_ids)
            tries.writelines(json.dumps(line) + "\n" for line in _lines(name, attempts))
            result.count(attempts)
            if len(pairs) < 2 * _PAIRS and any(attempt.placed for attempt in attempts):
                pairs += [Seen(str(path), before.changed("before")), Seen(name, after)]
    if result.images == 0:
        raise DataError(f"none of the {len(files)} images can be decoded")
    (folder / ANNOTATIONS).write_text(json.dumps(content), encoding="utf-8")
    if pairs:
        write_sheet(Preview(tuple(pairs), patches.class_names, {}), folder / SHEET, columns=4)
    return result


def _empty_image(path: Path) -> Sample:
    pixels = read_image(str(path))
    return Sample(
        image=torch.from_numpy(pixels).permute(2, 0, 1),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        ignore=torch.zeros(0, dtype=torch.bool),
    )


def _inject_drawn(
    image: Sample, patches: Patches, settings: Settings, number: int
) -> tuple[Sample, list[Attempt]]:
    """Image `number` with patches drawn by (seed, number)."""
    stream = np.random.SeedSequence((settings.seed, number)).generate_state(1, np.uint64)
    wanted = ((patches.negatives, settings.false_positives), (patches.objects, settings.objects))
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(stream[0]))
        drawn = [
            kind[draw_index(len(kind))] for kind, count in wanted if kind for _ in range(count)
        ]
        result, attempts = inject(
            image, drawn, places=settings.places, threshold=settings.threshold, blend=settings.blend
        )
    for attempt in attempts:
        if attempt.placed:
            result = result.changed(_kind(attempt.patch).removesuffix("s"))
    return result, attempts


def _kind(patch: Patch) -> str:
    return _KINDS[patch.is_object]


def _write_image(path: Path, sample: Sample) -> None:
    cv2.imwrite(
        str(path), pixels_of(sample.image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )


def _document(class_names: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(category_ids, class_names, strict=True)
    ]
    return {"images": [], "annotations": [], "categories": categories}


def _annotate(
    content: dict[str, Any], number: int, name: str, image: Sample, category_ids: Sequence[int]
) -> None:
    """Add an image and its boxes to a COCO document."""
    height, width = image.size
    content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
    for (x1, y1, x2, y2), label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
        box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": category_ids[label],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )


def _lines(name: str, attempts: Sequence[Attempt]) -> Iterator[dict[str, Any]]:
    """One per place that was tried, and one for a patch without any free place."""
    for attempt in attempts:
        kind = _kind(attempt.patch).removesuffix("s")
        common = {"image": name, "patch": attempt.patch.name, "kind": kind}
        if not attempt.places:
            yield common | {"left": None, "top": None, "mutual_information": None, "placed": False}
        for place in attempt.places:
            yield common | {
                "left": place.left,
                "top": place.top,
                "mutual_information": round(place.mutual_information, 4),
                "placed": place is attempt.placed,
            }
