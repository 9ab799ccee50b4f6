"""Assigners: which prior learns which object. Each is called as `assigner(priors, boxes)`.

Letters: P priors, G ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from detcli.assign.atss import ATSSAssigner
from detcli.assign.enlarged import EnlargedBoxes
from detcli.assign.fcos import FCOSAssigner
from detcli.assign.matching import IGNORED, NEGATIVE, ignore_inside
from detcli.assign.max_iou import MaxIoUAssigner, SmallThresholds
from detcli.assign.sampling import RandomSampler
from detcli.ops.priors import Priors

__all__ = [
    "ASSIGNERS",
    "IGNORED",
    "NEGATIVE",
    "ATSSAssigner",
    "Assigner",
    "EnlargedBoxes",
    "FCOSAssigner",
    "MaxIoUAssigner",
    "RandomSampler",
    "SmallThresholds",
    "build_assigner",
    "ignore_inside",
]


class Assigner(Protocol):
    """A rule that gives priors to objects."""

    def __call__(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Index of the box (P,) int64 of each prior, NEGATIVE or IGNORED; boxes (G, 4) xyxy."""
        ...

    def relaxed(self, factor: float) -> Assigner:
        """A looser rule of the same kind, for an auxiliary head; factor > 1."""
        ...


def _max_iou(small: Mapping[str, float] | None = None, **keywords: Any) -> MaxIoUAssigner:
    return MaxIoUAssigner(**keywords, small=SmallThresholds(**small) if small else None)


ASSIGNERS: dict[str, Callable[..., Assigner]] = {
    "max_iou": _max_iou,
    "atss": ATSSAssigner,
    "fcos": FCOSAssigner,
}


def build_assigner(
    name: str, *, enlarge_small: Mapping[str, float] | None = None, **keywords: Any
) -> Assigner:
    """The assigner of this name; keywords are the fields of its class, enlarge_small those of
    `EnlargedBoxes` around it, or None."""
    assigner = ASSIGNERS[name](**keywords)
    return EnlargedBoxes(assigner, **enlarge_small) if enlarge_small else assigner
