"""Decide whether the images of a run fit into memory, and read them into it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detcli.data.cache import ImageCache, decoded_bytes, free_bytes
from detcli.data.records import Records
from detcli.engine.run.log import RunLog
from detcli.errors import UsageError
from detcli.recipe import Recipe

GIB = 2**30
SHARE = 0.8  # of the free memory that images may take; the rest is for the training itself


def build_caches(
    recipe: Recipe, splits: Sequence[Records], log: RunLog
) -> tuple[ImageCache | None, ...]:
    """One cache per split, filled, the same one for the same split; None for all of them without
    `data.cache: ram`.

    Every process keeps its own, shared by its workers. Raises UsageError when they do not fit, and
    DataError for an image that cannot be used.
    """
    if recipe.data.cache == "none":
        return (None,) * len(splits)
    different = {id(records): records for records in splits}
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = sum(map(decoded_bytes, different.values())) * processes
    shared = recipe.data.workers > 0
    free = free_bytes(shared=shared)
    images = sum(map(len, different.values()))
    what = f"{images} decoded images take {needed / GIB:.2f} GiB in {processes} processes"
    if free is not None and needed > SHARE * free:
        place = "memory, /dev/shm included," if shared else "memory"
        raise UsageError(
            f"data.cache: {what}, more than {SHARE:.0%} of the free {place} "
            f"({free / GIB:.2f} GiB); use data.cache=none, or smaller images on disk"
        )
    known = "unknown" if free is None else f"{free / GIB:.2f} GiB"
    log.say(f"data.cache: {what}; free: {known}")
    caches = {key: ImageCache(records, shared=shared) for key, records in different.items()}
    with log.bar("decode", images, unit="images") as advance:
        for cache in caches.values():
            cache.fill(max(1, recipe.data.workers), advance)
    return tuple(caches[id(records)] for records in splits)
