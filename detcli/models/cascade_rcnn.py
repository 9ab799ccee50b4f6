"""Cascade R-CNN on a feature pyramid (arXiv 1712.00726): stages that ask for a larger overlap from
one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from detcli.assign import MaxIoUAssigner
from detcli.models.dense.terms import build_criterion
from detcli.models.two_stage.detector import RegionDetector, build_region_detector
from detcli.models.two_stage.regions import RegionHead, Stage
from detcli.models.two_stage.rpn import build_rpn
from detcli.ops.coders import DeltaCoder

if TYPE_CHECKING:
    from detcli.recipe.sections.models.cascade_rcnn import CascadeRcnn


def build_cascade_rcnn(options: CascadeRcnn, *, num_classes: int) -> RegionDetector:
    """Cascade R-CNN from the model section of a recipe."""
    ious, stds, weights = options.stage_ious, options.stage_stds, options.stage_weights
    stages = [
        Stage(
            build_criterion(options, MaxIoUAssigner(iou, iou, min_positive_iou=None)),
            DeltaCoder(own),
            weight,
        )
        for iou, own, weight in zip(ious, stds, weights, strict=True)
    ]

    def build_heads(in_features: int) -> nn.ModuleList:
        return nn.ModuleList(
            RegionHead(
                in_features, options.head, num_classes=num_classes, class_agnostic=True, sigma=False
            )
            for _ in stages
        )

    return build_region_detector(options, stages, build_heads, build_first=build_rpn, density=None)
