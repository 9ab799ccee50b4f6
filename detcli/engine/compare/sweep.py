"""The best threshold of each method, chosen on one half of the images and judged on the other.
Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detcli.engine.run.methods import MethodSpec
from detcli.errors import UsageError
from detcli.evaluation import evaluate_coco
from detcli.types import Detections, GroundTruth

if TYPE_CHECKING:
    from detcli.types import IntArray

_IOU_THRESHOLDS = tuple(round(0.30 + 0.05 * step, 2) for step in range(11))
_SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)


@dataclass(frozen=True)
class Swept:
    """The option that was tried, its values with the AP of each on the first half, and the
    method with the best one."""

    spec: MethodSpec
    option: str | None
    tried: tuple[tuple[float, float], ...]

    def sentence(self, num_images: int) -> str:
        """What was chosen and how much it mattered."""
        if self.option is None:
            return f"{self.spec.label}: nothing to choose, its threshold was given or it has none"
        best, worst = (pick(value for _, value in self.tried) for pick in (max, min))
        values = [value for value, _ in self.tried]
        at_end = self.spec.options[self.option] in (values[0], values[-1])
        return (
            f"{self.spec.label}: best of {len(values)} values of {self.option} from {values[0]:g} "
            f"to {values[-1]:g} on {num_images} images (AP there {worst:.4f} to {best:.4f})"
            + (
                "; it is the last value of the range, a better one may lie outside"
                if at_end
                else ""
            )
        )


def halves(num_images: int, seed: int) -> tuple[IntArray, IntArray]:
    """Two random halves of the images, each in ascending order. UsageError below two images."""
    if num_images < 2:
        raise UsageError(f"--sweep: expected at least 2 images, got {num_images}")
    shuffled = np.random.default_rng(seed).permutation(num_images)
    middle = num_images // 2
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:])


def swept_option(spec: MethodSpec) -> tuple[str, tuple[float, ...]] | None:
    """The option that decides how much a method suppresses and the values worth trying; None
    where it was typed and is therefore not ours to choose, and where there is none."""
    acting = spec.params
    for option, values in (("sigma", _SIGMAS), ("iou_threshold", _IOU_THRESHOLDS)):
        if option in acting:
            return None if option in spec.options else (option, values)
    return None


def num_trials(specs: Sequence[MethodSpec]) -> int:
    """How many values `sweep` tries."""
    return sum(len(option[1]) for option in map(swept_option, specs) if option is not None)


def sweep(
    candidates: Detections,
    truth: GroundTruth,
    specs: Sequence[MethodSpec],
    progress: Callable[[int], None] | None = None,
) -> list[Swept]:
    """Try every value of each method's option on these images; ties go to the first value."""
    chosen = []
    for spec in specs:
        option = swept_option(spec)
        if option is None:
            chosen.append(Swept(spec, None, ()))
            continue
        name, values = option
        tried = []
        for value in values:
            attempt = replace(spec, options={**spec.options, name: value})
            metrics = evaluate_coco(truth, attempt.apply(candidates)).metrics
            tried.append((value, metrics["AP"] or 0.0))
            if progress is not None:
                progress(1)
        best = max(tried, key=lambda pair: pair[1])[0]
        best_spec = replace(spec, options={**spec.options, name: best})
        chosen.append(Swept(best_spec, name, tuple(tried)))
    return chosen
