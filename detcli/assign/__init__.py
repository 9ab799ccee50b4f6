"""Assigners: which prior learns which object. Each is called as `assigner(priors, boxes)`.

Letters: P priors, G ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from detcli.assign.atss import ATSSAssigner
from detcli.assign.fcos import FCOSAssigner
from detcli.assign.matching import IGNORED, NEGATIVE, ignore_inside
from detcli.assign.max_iou import MaxIoUAssigner
from detcli.ops.priors import Priors

__all__ = [
    "ASSIGNERS",
    "IGNORED",
    "NEGATIVE",
    "ATSSAssigner",
    "Assigner",
    "FCOSAssigner",
    "MaxIoUAssigner",
    "build_assigner",
    "ignore_inside",
]

# (priors, boxes (G, 4) xyxy) -> (P,) int64: index of the box, NEGATIVE or IGNORED
Assigner: TypeAlias = Callable[[Priors, Tensor], Tensor]

ASSIGNERS: dict[str, Callable[..., Assigner]] = {
    "max_iou": MaxIoUAssigner,
    "atss": ATSSAssigner,
    "fcos": FCOSAssigner,
}


def build_assigner(name: str, **keywords: Any) -> Assigner:
    """The assigner of this name; keywords are the fields of its class."""
    return ASSIGNERS[name](**keywords)
