"""How fast the loader makes batches, with which settings, and which of them to use."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from detcli.data.cache import ImageCache, decoded_bytes, free_bytes
from detcli.data.loader import Loader
from detcli.data.records import Records
from detcli.data.transforms import check_augmentations
from detcli.engine.profile.sample import read_ms, sample_ms
from detcli.engine.profile.settings import (
    WORTH,
    Measured,
    Setting,
    best_workers,
    combined,
    other_settings,
    worker_settings,
)
from detcli.engine.profile.timing import Spread, paired_ratios
from detcli.engine.profile.trial import evenly
from detcli.engine.run.build import build_train_loader, read_split
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.caching import GIB, SHARE
from detcli.errors import DataError, UsageError
from detcli.recipe import Recipe, override_recipe

if TYPE_CHECKING:
    from detcli.types import IntArray

MOST_IMAGES = 256  # that all settings load
PLANNED = 20_000  # images, after which a round ends in any case
ROUNDS = 2
RESTARTS = 2
PAIRS = 4  # rounds in which two recipes are compared


@dataclass(frozen=True)
class LoaderProfile:
    """The loader alone, its batches thrown away.

    settings: all that were measured, the recipe's first; recommended: `current` itself where
    nothing is clearly faster; sample_ms: parts of one image in one process; restart_ms: from the
    start of an epoch to its first batch with workers that stay (`persistent`) or start anew
    (`fresh`); images: how many were loaded, over and over; seconds: of each setting.
    """

    settings: list[Measured]
    current: Measured
    recommended: Measured
    sample_ms: dict[str, float]
    restart_ms: dict[str, float]
    images: int
    seconds: float
    notes: list[str]

    @property
    def gain(self) -> float:
        """Images per second as recommended over those of the recipe."""
        return self.recommended.images_per_s / self.current.images_per_s

    def as_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        measured = [each.as_json() for each in self.settings]
        sides = {name: getattr(self, name).as_json() for name in ("current", "recommended")}
        return vars(self) | sides | {"settings": measured, "gain": self.gain}


class Source:
    """The training images of a recipe, as settings of its loader deliver them."""

    def __init__(self, recipe: Recipe, ranks: Ranks) -> None:
        records = read_split(recipe, "train")
        if len(records) == 0:
            raise DataError(f"{recipe.data.root}: the train split has no images")
        self.recipe = recipe
        self.ranks = ranks
        self.whole = records
        self.records = chosen_images(records, recipe.data.augment.model_dump())
        self._cache: ImageCache | None = None

    def loader(self, setting: Setting) -> Loader:
        """A loader of its own with this setting."""
        recipe = override_recipe(self.recipe, setting.overrides(), self.recipe.name)
        cache = self.cache() if setting.cache == "ram" else None
        return build_train_loader(recipe, self.records, self.ranks, cache)

    def cache(self) -> ImageCache:
        """The decoded images, in memory that workers share."""
        if self._cache is None:
            self._cache = ImageCache(self.records, shared=True)
            self._cache.fill(1, lambda count: None)
        return self._cache


def measure_loader(recipe: Recipe, ranks: Ranks, log: RunLog, *, seconds: float) -> LoaderProfile:
    """Load training batches of a recipe with its own setting and with others.

    First the number of workers is varied, then each other key, then what was best together;
    seconds: of each setting. Raises DataError.
    """
    source = Source(recipe, ranks)
    current = Setting.of(recipe)
    plain = source.loader(replace(current, workers=0, cache="none")).dataset
    parts = {"read": read_ms(plain)}
    data = recipe.data
    parts |= sample_ms(
        plain, batch=data.batch_per_rank, pad_multiple=data.pad_multiple, seconds=seconds
    )
    by_workers = rates(source, worker_settings(current), log, seconds=seconds)
    anchor = best_workers(by_workers)
    caches, notes = may_cache(source)
    others = other_settings(anchor.setting, cuda=ranks.device.type == "cuda", caches=caches)
    again, *by_key = rates(source, [(anchor.factor, anchor.setting), *others], log, seconds=seconds)
    setting = combined(again, by_key)
    restart = restart_ms(source, setting)
    notes += worker_notes(current, restart)
    now, *final = rates(source, pair_of(current, setting), log, seconds=seconds)
    worth = final and final[0].images_per_s >= WORTH * now.images_per_s
    return LoaderProfile(
        settings=[now, *by_workers[1:], *by_key, *final],
        current=now,
        recommended=final[0] if worth else now,
        sample_ms=parts,
        restart_ms=restart,
        images=len(source.records),
        seconds=seconds,
        notes=notes,
    )


def compare_loaders(
    first: Recipe, second: Recipe, ranks: Ranks, log: RunLog, *, seconds: float
) -> Spread:
    """Images per second of the second recipe's loader over those of the first's, in turns."""
    makers = [
        partial(Source(recipe, ranks).loader, Setting.of(recipe)) for recipe in (first, second)
    ]
    return paired_ratios(*_in_turns(makers, PAIRS, log, seconds=seconds))


def pair_of(current: Setting, setting: Setting) -> list[tuple[str, Setting]]:
    """The recipe's setting, and the other one if it is another."""
    return [("recipe", current), *([("recommended", setting)] if setting != current else [])]


def rates(
    source: Source, settings: Sequence[tuple[str, Setting]], log: RunLog, *, seconds: float
) -> list[Measured]:
    """What each setting delivers, in rounds over all of them."""
    makers = [partial(source.loader, setting) for _, setting in settings]
    found = _in_turns(makers, ROUNDS, log, seconds=seconds)
    return [
        Measured(factor, setting, statistics.mean(rates_of), min(rates_of), max(rates_of))
        for (factor, setting), rates_of in zip(settings, found, strict=True)
    ]


def _in_turns(
    makers: Sequence[Callable[[], Loader]], rounds: int, log: RunLog, *, seconds: float
) -> list[list[float]]:
    """Images per second of each loader in each round over all of them; seconds: of each loader."""
    found: list[list[float]] = [[] for _ in makers]
    with log.bar("loader", rounds * len(makers), unit="settings") as advance:
        for _ in range(rounds):
            for rates_of, maker in zip(found, makers, strict=True):
                rates_of.append(images_per_s(maker(), seconds=seconds / rounds))
                advance(1)
    return found


def images_per_s(loader: Loader, *, seconds: float) -> float:
    """The rate at which batches come once every worker has delivered one; the loader is used up."""
    epoch, first = loader.plan(0), max(1, loader.workers)
    loader.plan = _repeated(epoch, 4 * first + PLANNED // len(epoch[0]))
    batches = loader.start(0)
    for _ in range(first):
        next(batches)
    count, began = 0, time.perf_counter()
    for batch in batches:
        count += len(batch.targets)
        if time.perf_counter() - began >= seconds:
            break
    return count / (time.perf_counter() - began)


def restart_ms(source: Source, setting: Setting) -> dict[str, float]:
    """Median milliseconds from the start of an epoch, not the first, to its first batch."""
    found = {}
    for name, stays in (("persistent", True), ("fresh", False)):
        loader = source.loader(replace(setting, persistent_workers=stays))
        loader.plan = _repeated(loader.plan(0), setting.workers)
        times = []
        for epoch in range(RESTARTS + 1):
            began = time.perf_counter()
            batches = loader.start(epoch)
            next(batches)
            times.append(time.perf_counter() - began)
            deque(batches, maxlen=0)  # to the end, so that the workers are idle
        found[name] = statistics.median(times[1:]) * 1e3
    return found


def worker_notes(current: Setting, restart: Mapping[str, float]) -> list[str]:
    """What the rates do not show about the workers of a recipe, in sentences."""
    if not current.workers:
        return [
            "data.workers is 0: each step waits while its images load, however fast; workers load "
            "them in parallel"
        ]
    if current.persistent_workers or restart["fresh"] < restart["persistent"]:
        return []
    return [
        f"restarted workers begin an epoch in {restart['fresh']:.0f} ms, persistent ones in "
        f"{restart['persistent']:.0f} ms: data.persistent_workers=true"
    ]


def _repeated(epoch: list[IntArray], count: int) -> Callable[[int], list[IntArray]]:
    """A plan of this many batches, those of an epoch over and over."""
    batches = list(islice(cycle(epoch), count))
    return lambda number: batches


def chosen_images(records: Records, augment: dict[str, Any]) -> Records:
    """A share of the images that every setting can load from memory and the cache can hold; all of
    them where the augmentations would find nothing to act on in it."""
    chosen = evenly(records, MOST_IMAGES)
    try:
        check_augmentations(chosen, augment)
    except UsageError:
        return records
    return chosen


def may_cache(source: Source) -> tuple[bool, list[str]]:
    """Whether `cache` is worth trying, and if not, why, in a sentence."""
    if len(source.records) > MOST_IMAGES:
        return False, ["data.cache was not tried: the augmentations need all images"]
    needed, free = decoded_bytes(source.whole), free_bytes(shared=True)
    if free is None or needed <= SHARE * free:
        return True, []
    return False, [
        f"data.cache was not tried: all training images take {needed / GIB:.1f} GiB decoded, and "
        f"{free / GIB:.1f} GiB are free"
    ]
