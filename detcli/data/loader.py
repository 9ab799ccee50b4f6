"""Batches from worker processes.

Letters: B images in a batch, M boxes in a batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detcli.data.dataset import DetectionDataset
from detcli.data.plan import evaluation_plan, training_plan
from detcli.data.transforms import Sample
from detcli.errors import DataError
from detcli.types import Batch, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.data import Data
    from detcli.types import IntArray

Item = tuple[int, int]  # epoch, index


class PackedBatch(NamedTuple):
    """A batch as it leaves a worker: few tensors, because each one costs a file descriptor.

    images (B, 3, H, W) uint8; boxes (M, 4), labels (M,), ignore (M,) of all images end to end;
    counts: boxes per image; sizes: (height, width) of the valid part.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    counts: list[int]
    sizes: list[tuple[int, int]]
    indices: list[int]
    fired: dict[str, int]

    def unpack(self) -> Batch:
        """The batch in the form the engine takes."""
        columns = (self.boxes, self.labels, self.ignore)
        parts = (torch.split(column, self.counts) for column in columns)
        targets = [
            Target(boxes[~ignore], labels[~ignore], boxes[ignore], size)
            for boxes, labels, ignore, size in zip(*parts, self.sizes, strict=True)
        ]
        return Batch(self.images, tuple(targets), tuple(self.indices), self.fired)


class _Items(Dataset[Any]):
    """The data set as workers see it: a DataError is handed over instead of raised, because the
    loader would wrap a raised one in the worker's traceback."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, item: Item) -> tuple[int, Sample] | DataError:
        try:
            return self.dataset.position(item[1]), self.dataset[item]
        except DataError as error:
            return error


class Collate:
    """Pad to the largest image of the batch, right and below, to a multiple of `multiple`."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def __call__(self, items: Sequence[tuple[int, Sample] | DataError]) -> PackedBatch | DataError:
        good = []
        for item in items:
            if isinstance(item, DataError):
                return item
            good.append(item)
        samples = [sample for _, sample in good]
        sizes = [sample.size for sample in samples]
        height, width = (
            math.ceil(max(side) / self.multiple) * self.multiple
            for side in zip(*sizes, strict=True)
        )
        images = _empty_images(len(samples), height, width)
        for row, sample in zip(images, samples, strict=True):
            row[:, : sample.size[0], : sample.size[1]] = sample.image
        return PackedBatch(
            images=images,
            boxes=torch.cat([sample.boxes for sample in samples]),
            labels=torch.cat([sample.labels for sample in samples]),
            ignore=torch.cat([sample.ignore for sample in samples]),
            counts=[len(sample.labels) for sample in samples],
            sizes=sizes,
            indices=[index for index, _ in good],
            fired=dict(Counter(name for sample in samples for name in sample.fired)),
        )


def _empty_images(count: int, height: int, width: int) -> Tensor:
    """(B, 3, H, W) zeros with channels last in memory, like the decoded images: copying them in
    is then a copy of rows, ten times faster than a transposition."""
    return torch.zeros(count, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


class _Planned:
    """The batches to be made, as the batch sampler of a DataLoader that stays alive."""

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []

    def __iter__(self) -> Iterator[list[Item]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _start_worker(_: int) -> None:
    """One thread per worker: the workers are the parallelism."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class Loader:
    """Batches of one rank. Built by `build_loader`.

    plan: epoch -> the record positions of each of this rank's batches, always as many.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        plan: Callable[[int], list[IntArray]],
        pad_multiple: int,
        options: Mapping[str, Any],
    ) -> None:
        self.dataset = dataset
        self.plan = plan
        self._planned = _Planned()
        self._options = dict(options, collate_fn=Collate(pad_multiple))
        self._batches: DataLoader[Any] | None = None

    @property
    def workers(self) -> int:
        """Processes that make batches, 0 where this one does."""
        return int(self._options["num_workers"])

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        return len(self.plan(0))

    def start(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `skip` on; the skipped ones are never decoded.

        Raises DataError for an image that cannot be used.
        """
        batches = self.plan(epoch)[skip:]
        self._planned.batches = [[(epoch, int(index)) for index in batch] for batch in batches]
        if self._batches is None:
            self._batches = DataLoader(
                _Items(self.dataset),
                batch_sampler=self._planned,
                worker_init_fn=_start_worker,
                generator=torch.Generator(),  # else every epoch draws from the global one
                **self._options,
            )
        for packed in self._batches:
            if isinstance(packed, DataError):
                # Let go of the workers before the traceback, which outlives this frame, can
                # hold on to them: they would delay the exit by ten seconds.
                self._batches = None
                raise DataError(str(packed))
            yield packed.unpack()


def build_loader(
    dataset: DetectionDataset,
    settings: Data,
    *,
    batch_per_rank: int,
    shuffle: bool,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> Loader:
    """A loader for one rank.

    shuffle True is training: shuffled by (seed, epoch), every rank the same number of full
    batches (see `training_plan`), with the images that oversampling repeats. shuffle False is
    evaluation: images in order, each once over all ranks, `settings.group_by_aspect` without
    effect. The batches are the same for any number of workers. pin_memory needs CUDA.
    """
    count, extra, sizes = len(dataset), dataset.extra, dataset.records.sizes
    wide = None
    if settings.group_by_aspect:
        wide = sizes[:, 1] >= sizes[:, 0]
        wide = np.concatenate([wide, wide[extra]])

    def plan(epoch: int) -> list[IntArray]:
        if not shuffle:
            return evaluation_plan(count, batch=batch_per_rank, rank=rank, world_size=world_size)
        batches = training_plan(
            wide,
            count + len(extra),
            seed=seed,
            epoch=epoch,
            batch=batch_per_rank,
            world_size=world_size,
        )
        return batches[rank::world_size]

    options = {
        "num_workers": settings.workers,
        "pin_memory": pin_memory,
        "prefetch_factor": settings.prefetch_factor if settings.workers else None,
        "persistent_workers": settings.persistent_workers and settings.workers > 0,
    }
    return Loader(dataset, plan, settings.pad_multiple, options)
