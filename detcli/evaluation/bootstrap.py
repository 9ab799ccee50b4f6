"""How sure a figure is, and a difference: paired bootstrap over images.

Letters: S systems, M metrics, R resamples, I images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detcli.errors import UsageError
from detcli.evaluation.coco import METRIC_NAMES
from detcli.evaluation.resample import Resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.evaluation.matching import MatchTable
    from detcli.types import FloatArray, GroundTruth

LEVEL = 0.95  # of the intervals
CHUNK = 16  # resamples per task of a thread; part of what a seed means


@dataclass(frozen=True)
class Estimate:
    """A figure on the images as they are, and over resamples its mean and 95 % interval.

    None where no object defines the figure. Resamples that leave it undefined do not count.
    """

    value: float | None
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """System minus baseline; p: two-sided p-value of there being no difference."""

    p: float | None


@dataclass(frozen=True)
class Bootstrap:
    """Estimates of S systems on the same resamples.

    systems and differences: one dict per system, metric -> figure; the baseline's own
    differences are zeros with p = 1. class_systems and class_differences: the same for the AP of
    each class by name, empty unless asked for. samples: metric -> (S, R), NaN where undefined.
    """

    systems: tuple[dict[str, Estimate], ...]
    differences: tuple[dict[str, Difference], ...]
    class_systems: tuple[dict[str, Estimate], ...]
    class_differences: tuple[dict[str, Difference], ...]
    samples: dict[str, FloatArray]
    baseline: int
    resamples: int
    seed: int


def bootstrap(
    ground_truth: GroundTruth,
    tables: Sequence[MatchTable],
    *,
    metrics: Sequence[str] = ("AP",),
    per_class: bool = False,
    baseline: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Bootstrap:
    """Draw the images with replacement, the same ones for every system, and measure each time.

    tables: one per system, from `match` with this ground truth; metrics out of METRIC_NAMES;
    baseline: index of the system that the others are compared with; progress: called with the
    number of resamples that have been added.

    A resample equals an evaluation of a data set in which each image stands as often as it was
    drawn, its copies next to each other in order of image id. Classes without an object in a
    resample are left out of its mean. The interval runs between the 2.5th and 97.5th percentile.
    p = 2 * min(#(d <= 0) + 1, #(d >= 0) + 1) / (R + 1), at most 1, over the resampled differences
    d (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, chapter 4).

    Raises UsageError on an unknown metric, a baseline that is not there, fewer than one
    resample, no system or no image.
    """
    _check(ground_truth, tables, metrics, baseline, resamples)
    assert all(len(table.object_counts) == len(ground_truth.labels) for table in tables)
    measure = Resampled(ground_truth, tables, metrics, per_class=per_class)
    point = measure(np.ones((1, ground_truth.num_images), np.int32))[..., 0]
    parts = []
    chunks = np.random.SeedSequence(seed).spawn(-(-resamples // CHUNK))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(
            lambda chunk: measure(draw_images(ground_truth.num_images, chunk)), chunks
        ):
            parts.append(part)
            if progress is not None:
                progress(min(CHUNK, resamples - CHUNK * (len(parts) - 1)))
    samples = np.concatenate(parts, -1)[..., :resamples]
    return summarise(
        point, samples, metrics, class_names=ground_truth.class_names, baseline=baseline, seed=seed
    )


def summarise(
    point: FloatArray,
    samples: FloatArray,
    metrics: Sequence[str],
    *,
    class_names: Sequence[str] = (),
    baseline: int,
    seed: int,
) -> Bootstrap:
    """Estimates and differences of resampled figures.

    point (S, M + C), samples (S, M + C, R): the M metrics, and the AP of each class where the
    caller measured it (C is 0 otherwise); NaN where a figure is not defined.
    """
    systems = [_estimates(point[s], samples[s]) for s in range(len(point))]
    differences = [
        _differences(point[s] - point[baseline], samples[s] - samples[baseline])
        for s in range(len(point))
    ]
    names, count = class_names, len(metrics)
    return Bootstrap(
        systems=tuple(dict(zip(metrics, row, strict=False)) for row in systems),
        differences=tuple(dict(zip(metrics, row, strict=False)) for row in differences),
        class_systems=tuple(dict(zip(names, row[count:], strict=False)) for row in systems),
        class_differences=tuple(dict(zip(names, row[count:], strict=False)) for row in differences),
        samples={name: samples[:, m] for m, name in enumerate(metrics)},
        baseline=baseline,
        resamples=samples.shape[-1],
        seed=seed,
    )


def mean_difference(
    found: Bootstrap, metric: str, ours: Sequence[int], theirs: Sequence[int]
) -> Difference:
    """Mean figure of the systems `ours` minus that of `theirs`, say of the seeds of two recipes,
    over the same resamples of the images.

    None where one of them is not defined. The interval is over images: how much the systems of
    one side differ among themselves is not part of it.
    """
    values = np.array([row[metric].value for row in found.systems], np.float64)  # None: NaN
    samples = found.samples[metric]
    mine, other = list(ours), list(theirs)
    return _differences(
        values[mine].mean(keepdims=True) - values[other].mean(keepdims=True),
        samples[mine].mean(axis=0, keepdims=True) - samples[other].mean(axis=0, keepdims=True),
    )[0]


def draw_images(num_images: int, seed: np.random.SeedSequence) -> NDArray[np.int32]:
    """(CHUNK, I) how often each image is drawn."""
    drawn = np.random.default_rng(seed).integers(0, num_images, (CHUNK, num_images))
    counts = [np.bincount(row, minlength=num_images) for row in drawn]
    return np.stack(counts).astype(np.int32)


def _check(
    ground_truth: GroundTruth,
    tables: Sequence[MatchTable],
    metrics: Sequence[str],
    baseline: int,
    resamples: int,
) -> None:
    unknown = [name for name in metrics if name not in METRIC_NAMES]
    if unknown:
        raise UsageError(
            f"bootstrap: metric {unknown[0]!r} is unknown; it must be one of "
            f"{', '.join(METRIC_NAMES)}"
        )
    if not tables or ground_truth.num_images == 0:
        raise UsageError(
            f"bootstrap: expected at least one system and one image, got {len(tables)} systems "
            f"and {ground_truth.num_images} images"
        )
    if not 0 <= baseline < len(tables):
        raise UsageError(f"bootstrap: baseline {baseline} of {len(tables)} systems does not exist")
    if resamples < 1:
        raise UsageError(f"bootstrap: expected at least 1 resample, got {resamples}")


def _estimates(values: FloatArray, samples: FloatArray) -> list[Estimate]:
    """One per row of samples (M, R)."""
    return [Estimate(*_figures(value, row)) for value, row in zip(values, samples, strict=True)]


def _differences(values: FloatArray, samples: FloatArray) -> list[Difference]:
    rows = zip(values, samples, strict=True)
    return [Difference(*_figures(value, row), _p_value(row)) for value, row in rows]


def _figures(
    value: np.float64, samples: FloatArray
) -> tuple[float | None, float | None, float | None, float | None]:
    """Value, mean, low, high."""
    defined = samples[~np.isnan(samples)]
    if np.isnan(value) or not len(defined):
        return None, None, None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(value), float(defined.mean()), float(low), float(high)


def _p_value(samples: FloatArray) -> float | None:
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return None
    tail = min((defined <= 0).sum(), (defined >= 0).sum()) + 1
    return min(1.0, 2.0 * float(tail) / (len(defined) + 1))
