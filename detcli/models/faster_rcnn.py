"""Faster R-CNN on a feature pyramid (arXiv 1506.01497, 1612.03144)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from detcli.assign import build_assigner
from detcli.losses import KL
from detcli.models.dense.density_branch import DensityBranch
from detcli.models.dense.terms import build_criterion
from detcli.models.two_stage.detector import RegionDetector, build_region_detector
from detcli.models.two_stage.guided_rpn import GuidedRPN
from detcli.models.two_stage.regions import RegionHead, Stage
from detcli.models.two_stage.rpn import RPN, build_rpn
from detcli.ops.coders import DeltaCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.two_stage import OneLook


def build_with(
    build_first: Callable[..., RPN | GuidedRPN], options: OneLook, *, num_classes: int
) -> RegionDetector:
    """Faster R-CNN from the model section of a recipe, with what `build_first` makes of `rpn`."""
    criterion = build_criterion(options, build_assigner(options.assigner))
    branch = options.density_branch
    return build_region_detector(
        options,
        [Stage(criterion, DeltaCoder(options.delta_stds))],
        partial(
            RegionHead,
            options=options.head,
            num_classes=num_classes,
            class_agnostic=False,
            sigma=options.box_loss.name == KL,
        ),
        build_first=build_first,
        density=DensityBranch(branch.weight) if branch else None,
    )


build_faster_rcnn = partial(build_with, build_rpn)
