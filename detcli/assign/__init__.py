"""Assigners: which prior learns which object. Each is called as `assigner(priors, boxes)`.

Letters: P priors, G ground-truth boxes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detcli.assign.assigner import Assigner
from detcli.assign.atss import ATSSAssigner
from detcli.assign.enlarged import EnlargedBoxes
from detcli.assign.fcos import FCOSAssigner
from detcli.assign.matching import IGNORED, NEGATIVE, ignore_inside
from detcli.assign.max_iou import MaxIoUAssigner, SmallThresholds
from detcli.assign.sampling import RandomSampler

if TYPE_CHECKING:
    from detcli.recipe.sections.priors import Assigner as AssignerSection
    from detcli.recipe.sections.priors import EnlargedObjects

__all__ = [
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
    "enlarging",
    "ignore_inside",
]


def build_assigner(options: AssignerSection) -> Assigner:
    """The assigner of this section of a recipe."""
    if options.name == "atss":
        return ATSSAssigner(options.topk)
    if options.name == "fcos":
        return FCOSAssigner(options.center_radius)
    small = None
    if options.small is not None:
        own = options.small
        small = SmallThresholds(own.max_side_px, own.positive_iou, own.negative_iou)
    return MaxIoUAssigner(
        options.positive_iou,
        options.negative_iou,
        options.min_positive_iou,
        small,
        options.single_best,
    )


def enlarging(assigner: Assigner, options: EnlargedObjects | None) -> Assigner:
    """The assigner itself, or with such a section `EnlargedBoxes` around it."""
    if options is None:
        return assigner
    return EnlargedBoxes(assigner, options.max_side_px, options.factor)
