"""Decoded and transformed images with their boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from detcli.data.cache import ImageCache, read_pixels
from detcli.data.records import Records
from detcli.data.transforms import Pipeline, Pool, Sample
from detcli.data.transforms.small import boxes_of

CACHED = "ram_cache"  # how the log counts images that came from the cache


class DetectionDataset(Dataset[Sample]):
    """The images of a record table as network inputs.

    Item (epoch, index) is a function of (seed, epoch, index) alone: which worker makes it, and
    what that worker made before, does not matter. Indices from the number of images on are images
    that oversampling shows again. cache: where the decoded images are, None to decode each time;
    the items are the same. Raises DataError for a file that is broken or has changed since the
    annotations were read.
    """

    def __init__(
        self, records: Records, transforms: Pipeline, seed: int, cache: ImageCache | None = None
    ) -> None:
        self.records = records
        self.transforms = transforms
        self.seed = seed
        self.cache = cache
        self.pool = Pool(records, self.load)
        oversample = transforms.oversample
        self.extra = np.zeros(0, np.int64) if oversample is None else oversample.extra(records)

    def __len__(self) -> int:
        """Images, each counted once."""
        return len(self.records)

    def position(self, index: int) -> int:
        """Which image of the record table an index shows."""
        return index if index < len(self) else int(self.extra[index - len(self)])

    @property
    def augmentations(self) -> tuple[str, ...]:
        """What may act on an image, by the names that Batch.fired counts: the augmentations, and
        `ram_cache` for an image that was not read from disk."""
        return self.transforms.names if self.cache is None else (CACHED, *self.transforms.names)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        sample = self.load(self.position(index))
        if index >= len(self):
            sample = sample.changed("oversample")
        # index + 1: (seed, epoch) alone shuffles the epoch, and a trailing 0 would repeat it.
        stream = np.random.SeedSequence((self.seed, epoch, index + 1)).generate_state(1, np.uint64)
        # torchvision draws from torch's global generator: borrow it and put it back.
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(int(stream[0]))
            return self.transforms(sample, self.pool)

    def load(self, index: int) -> Sample:
        """The image and its boxes as they are on disk."""
        records, cache = self.records, self.cache
        pixels = read_pixels(records, index) if cache is None else cache.pixels(index)
        boxes, ignore = boxes_of(records, index)
        return Sample(
            # A view with channels last in memory, which torchvision resizes fastest.
            image=torch.from_numpy(pixels).permute(2, 0, 1),
            boxes=boxes.float(),
            labels=torch.from_numpy(records.labels[records.rows(index)].copy()),
            ignore=ignore,
            fired=() if cache is None else (CACHED,),
        )
