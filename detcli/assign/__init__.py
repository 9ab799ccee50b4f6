"""Assigners: which prior learns which object. Each is called as `assigner(priors, boxes)`.

Letters: P priors, G ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detcli.assign.assigner import Assigner
from detcli.assign.atss import ATSSAssigner
from detcli.assign.enlarged import EnlargedBoxes
from detcli.assign.fcos import FCOSAssigner
from detcli.assign.matching import IGNORED, NEGATIVE, ignore_inside
from detcli.assign.max_iou import MaxIoUAssigner, SmallThresholds
from detcli.assign.sampling import RandomSampler

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
