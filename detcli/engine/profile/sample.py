"""What a training sample costs in one process, part by part."""

from __future__ import annotations

import time
from collections import defaultdict

import torch

from detcli.data.dataset import DetectionDataset
from detcli.data.images import read_bytes
from detcli.data.loader import Collate
from detcli.data.transforms.build import AUGMENTATIONS, Step
from detcli.data.transforms.pool import Mixing
from detcli.data.transforms.sample import Sample


def read_ms(dataset: DetectionDataset) -> float:
    """Mean milliseconds to read the bytes of an image's file. Afterwards the system has all files
    in memory, which makes what follows comparable. Raises DataError."""
    records = dataset.records
    began = time.perf_counter()
    for index in range(len(records)):
        read_bytes(records.path(index))
    return (time.perf_counter() - began) / len(records) * 1e3


def sample_ms(
    dataset: DetectionDataset, *, batch: int, pad_multiple: int, seconds: float
) -> dict[str, float]:
    """Mean milliseconds per image of decoding it, of each transform, and of joining images to a
    batch; of mixing transforms with the images that they load. Takes about this many seconds, but
    at least a batch."""
    collate = Collate(pad_multiple)
    totals: defaultdict[str, float] = defaultdict(float)
    count, began = 0, time.perf_counter()
    with torch.random.fork_rng(devices=()):
        while count == 0 or time.perf_counter() - began < seconds:
            numbers = [(count + i) % len(dataset) for i in range(batch)]
            samples = [(index, _timed_sample(dataset, index, totals)) for index in numbers]
            started = time.perf_counter()
            collate(samples)
            totals["collate"] += time.perf_counter() - started
            count += batch
    return {name: total / count * 1e3 for name, total in totals.items()}


def _timed_sample(dataset: DetectionDataset, index: int, totals: defaultdict[str, float]) -> Sample:
    """The image as `dataset` makes it, its parts added to `totals`, in seconds."""
    moment = time.perf_counter()
    sample = dataset.load(index)
    moment = _add(totals, "decode", moment)
    for step in dataset.transforms.steps:
        sample = step(sample, dataset.pool) if isinstance(step, Mixing) else step(sample)
        moment = _add(totals, name_of(step), moment)
    return sample


def _add(totals: defaultdict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    totals[name] += now - since
    return now


def name_of(step: Step) -> str:
    """A transform's name as recipes write it."""
    names = {each.kind: name for name, each in AUGMENTATIONS.items()}
    return names.get(type(step), type(step).__name__.lower())
