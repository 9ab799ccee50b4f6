"""Several looks at every image: other sizes, mirrored, cut into slices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detcli.data.records import Records
from detcli.data.windows import cut_into_windows, join_windows
from detcli.engine.detect.evaluate import detect
from detcli.engine.detect.load import Trained
from detcli.engine.run.build import build_eval_loader, build_window_loader
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import UsageError
from detcli.recipe import Recipe
from detcli.types import Detections

# Detectors find objects by the size that they were trained at; beyond this the pyramid runs out.
_SANE_SCALES = (0.5, 2.0)
_SIDES = ("left", "right")


@dataclass(frozen=True)
class View:
    """One look at every image.

    scale: of the recipe's evaluation size; mirrored: left-right; slice_px, overlap: the image is
    cut into square windows of this side, neighbours sharing at least this part of it, and each
    window is resized like an image.
    """

    scale: float = 1.0
    mirrored: bool = False
    slice_px: int | None = None
    overlap: float = 0.0

    @property
    def name(self) -> str:
        kind = f"scale {self.scale:g}" if self.slice_px is None else f"slices {self.slice_px}"
        return f"{kind} mirrored" if self.mirrored else kind


PLAIN = View()


@dataclass(frozen=True)
class Seen:
    """What a detector found in one view: candidates in pixels of the original images, and the
    seconds that it took."""

    view: View
    candidates: Detections
    seconds: float


def choose_views(
    scales: Sequence[float], flip: bool, slice_px: int | None, overlap: float
) -> list[View]:
    """Every scale, then the slices, each also mirrored if `flip`.

    Raises UsageError on numbers that make no view, and where only the plain view is left.
    """
    for scale in scales:
        if not 0.1 <= scale <= 10:
            raise UsageError(f"--scales: expected factors from 0.1 to 10, got {scale:g}")
    if len(set(scales)) != len(scales):
        raise UsageError("--scales: each factor once")
    if slice_px is not None and slice_px < 32:
        raise UsageError(f"--slices: expected a side of at least 32 pixels, got {slice_px}")
    if not 0 <= overlap <= 0.9:
        raise UsageError(f"--overlap: expected 0 to 0.9 of the slice's side, got {overlap:g}")
    looks = [View(scale) for scale in scales]
    if slice_px is not None:
        looks.append(View(slice_px=slice_px, overlap=overlap))
    mirrors = [View(look.scale, True, look.slice_px, look.overlap) for look in looks]
    views = looks + (mirrors if flip else [])
    if not views or views == [PLAIN]:
        raise UsageError(
            "tta: nothing to add to the plain view; give --scales 0.8,1.0,1.2, --flip or --slices"
        )
    return views


def doubts(recipe: Recipe, class_names: Sequence[str], views: Sequence[View]) -> Iterator[str]:
    """What speaks against these views for a detector trained by this recipe.

    Raises UsageError where a view cannot give right answers: a mirrored left hand is a right one.
    """
    if any(view.mirrored for view in views):
        yield from _doubts_of_mirrors(recipe, class_names)
    if recipe.postprocess.method == "none":
        yield (
            f"{recipe.model.name} predicts each object once per view (method none): only "
            "boxes of different views are merged"
        )
    yield from _doubts_of_scales(recipe, views)


def _doubts_of_mirrors(recipe: Recipe, class_names: Sequence[str]) -> Iterator[str]:
    sided = [name for name in class_names if any(side in name.lower() for side in _SIDES)]
    if sided:
        raise UsageError(
            f"--flip: class {', '.join(map(repr, sided))} changes meaning in a flipped image; "
            "remove --flip"
        )
    flip = recipe.data.augment.flip
    if flip is None or flip.horizontal == 0:
        yield "--flip: this detector was trained without horizontal flips; AP may drop"


def _doubts_of_scales(recipe: Recipe, views: Sequence[View]) -> Iterator[str]:
    resize = recipe.data.resize
    trained = [short / resize.evaluated_short for short in resize.short]
    low, high = min(trained), max(trained)
    strange = [
        view.scale
        for view in views
        if view.slice_px is None and not 0.99 * low <= view.scale <= 1.01 * high
    ]
    if strange:
        shown = ", ".join(f"{scale:g}" for scale in dict.fromkeys(strange))
        seen = "that size only" if low == high else f"{low:g} to {high:g} times that size"
        yield (
            f"--scales {shown}: factors of the evaluation size; training used {seen}, and objects "
            "of other sizes are detected less well"
        )
    extreme = [scale for scale in strange if not _SANE_SCALES[0] <= scale <= _SANE_SCALES[1]]
    if extreme:
        yield f"--scales {extreme[0]:g}: so far from training that the view is likely harmful"


def look(trained: Trained, records: Records, view: View, ranks: Ranks, log: RunLog) -> Seen | None:
    """Run the detector over one view of every image; the result on rank 0, None elsewhere."""
    recipe = trained.recipe
    started = time.perf_counter()
    if view.slice_px is None:
        scaled = _at_scale(recipe, view.scale)
        loader = build_eval_loader(scaled, records, ranks)
        candidates = detect(
            trained.detector, scaled, records, loader, ranks, log, mirrored=view.mirrored
        )
    else:
        candidates = _look_at_slices(trained, records, view, ranks, log)
    if candidates is None:
        return None
    return Seen(view, candidates, time.perf_counter() - started)


def _look_at_slices(
    trained: Trained, records: Records, view: View, ranks: Ranks, log: RunLog
) -> Detections | None:
    assert view.slice_px is not None
    recipe = trained.recipe
    windows = cut_into_windows(records, view.slice_px, view.overlap)
    loader = build_window_loader(recipe, records, windows, ranks)
    found = detect(trained.detector, recipe, windows, loader, ranks, log, mirrored=view.mirrored)
    if found is None:
        return None
    joined, dropped = join_windows(found, windows)
    log.say(
        f"{view.name}: {len(windows)} tiles of {len(records)} images; {dropped} boxes that touch "
        "a tile border dropped"
    )
    return joined


def _at_scale(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with another evaluation size; nothing else of it is read here."""
    if scale == 1.0:
        return recipe
    resize = recipe.data.resize
    sides = {"eval_short": resize.evaluated_short, "long": resize.long}
    scaled = {key: max(1, round(side * scale)) for key, side in sides.items()}
    data = recipe.data.model_copy(update={"resize": resize.model_copy(update=scaled)})
    return recipe.model_copy(update={"data": data})
