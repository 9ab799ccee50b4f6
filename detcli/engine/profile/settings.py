"""The keys of `data` that decide how fast batches come, and which of them are worth trying."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detcli.recipe import Recipe
from detcli.recipe.sections.data import Data

PREFETCH = (2, 4)
WORTH = 1.05  # times faster, from which on a change is recommended
ENOUGH = 0.95  # of the best rate: as good as it, with fewer workers


@dataclass(frozen=True)
class Setting:
    """How batches are loaded, by the recipe's keys."""

    workers: int
    pin_memory: bool
    prefetch_factor: int
    persistent_workers: bool
    cache: str

    @classmethod
    def of(cls, recipe: Recipe) -> Setting:
        """The recipe's own."""
        return cls(**{name: getattr(recipe.data, name) for name in cls.__annotations__})

    def overrides(self) -> list[str]:
        """What to type for it."""
        return [f"data.{name}={str(value).lower()}" for name, value in asdict(self).items()]


@dataclass(frozen=True)
class Measured:
    """What a setting delivers: over all rounds, and in the slowest and fastest of them.

    factor: "recipe"; "workers", which differ from the recipe's; another key, which differs from
    the recipe's with the best number of workers; "recommended".
    """

    factor: str
    setting: Setting
    images_per_s: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """The fields and the setting's, side by side."""
        values = asdict(self)
        return {"factor": values.pop("factor"), **values.pop("setting"), **values}


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_settings(current: Setting) -> list[tuple[str, Setting]]:
    """The current setting, and it with 0, 1, 2, 4, ... workers, up to the number of CPUs."""
    counts = [0, 1]
    while counts[-1] < cores():
        counts.append(min(2 * counts[-1], cores()))
    others = [replace(current, workers=count) for count in counts if count != current.workers]
    # A recipe without workers may not prefetch otherwise than by default.
    default = Data.model_fields["prefetch_factor"].default
    others = [
        setting if setting.workers else replace(setting, prefetch_factor=default)
        for setting in others
    ]
    return [("recipe", current), *(("workers", setting) for setting in others)]


def other_settings(anchor: Setting, *, cuda: bool, caches: bool) -> Iterator[tuple[str, Setting]]:
    """`anchor`, which has workers, with one other key changed at a time; `persistent_workers` acts
    between epochs only."""
    for factor in PREFETCH:
        if factor != anchor.prefetch_factor:
            yield "prefetch_factor", replace(anchor, prefetch_factor=factor)
    if cuda:
        yield "pin_memory", replace(anchor, pin_memory=not anchor.pin_memory)
    if caches:
        yield "cache", replace(anchor, cache="none" if anchor.cache == "ram" else "ram")


def best_workers(measured: Sequence[Measured]) -> Measured:
    """Of the settings with workers: the current one, which is the first of `measured`, where it is
    about as fast as the fastest, else the fewest workers that are.

    Never 0: then the step would stand still while images load, however fast.
    """
    working = [each for each in measured if each.setting.workers]
    enough = ENOUGH * max(each.images_per_s for each in working)
    good = [each for each in working if each.images_per_s >= enough]
    if measured[0] in good:
        return measured[0]
    return min(good, key=lambda each: each.setting.workers)


def combined(anchor: Measured, others: Sequence[Measured]) -> Setting:
    """The anchor's setting with each key that alone made it clearly faster, at its best value."""
    setting = anchor.setting
    best: dict[str, float] = {}
    for each in others:
        if each.images_per_s >= WORTH * best.get(each.factor, anchor.images_per_s):
            best[each.factor] = each.images_per_s
            value = getattr(each.setting, each.factor)
            setting = replace(setting, **{each.factor: value})
    return setting
