"""The time of one sample, by its transforms."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from detcli.data.transforms.build import AUGMENTATIONS
from detcli.data.transforms.geometry import Resize
from detcli.engine.profile.loader import Source
from detcli.engine.profile.sample import _timed_sample, name_of, sample_ms
from detcli.engine.profile.settings import Setting
from tests.engine.profile.trials import CPU, tiny
from tests.ticks import TICK_SECONDS, Ticks

PLAIN = Setting(
    workers=0, pin_memory=True, prefetch_factor=2, persistent_workers=True, cache="none"
)


def test_a_timed_sample_is_the_data_sets_own(tmp_path: Path, ticks: Ticks) -> None:
    recipe = tiny(tmp_path, data={"augment": {"flip": {"horizontal": 1.0}}})
    dataset = Source(recipe, CPU).loader(PLAIN).dataset
    mine, theirs = _timed_sample(dataset, 3, defaultdict(float)), dataset[0, 3]
    assert torch.equal(mine.image, theirs.image)
    assert torch.equal(mine.boxes, theirs.boxes)
    parts = sample_ms(dataset, batch=2, pad_multiple=32, seconds=0.0)
    tick = 1e3 * TICK_SECONDS  # of each part of an image; batches of two are joined at once
    assert list(parts) == ["decode", "resize", "flip", "collate"]
    assert list(parts.values()) == pytest.approx([tick, tick, tick, tick / 2])


def test_transforms_are_named_as_in_recipes() -> None:
    for name, (kind, *_) in AUGMENTATIONS.items():
        assert name_of(kind.__new__(kind)) == name
    assert name_of(Resize([40], 60, "choice")) == "resize"
