"""Detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcli.models.atss import build_atss
from detcli.models.cascade_rcnn import build_cascade_rcnn
from detcli.models.centernet import build_centernet
from detcli.models.deformable_detr import build_deformable_detr
from detcli.models.detector import Detector
from detcli.models.detr import build_detr
from detcli.models.faster_rcnn import build_faster_rcnn
from detcli.models.fcos import build_fcos
from detcli.models.ga_faster_rcnn import build_ga_faster_rcnn
from detcli.models.ga_retinanet import build_ga_retinanet
from detcli.models.nas_fcos import build_nas_fcos
from detcli.models.retinanet import build_retinanet
from detcli.models.ssd import build_ssd
from detcli.models.vfnet import build_vfnet
from detcli.models.yolov4 import build_yolov4

if TYPE_CHECKING:
    from detcli.recipe.sections.models.table import Model

DETECTORS: dict[str, Callable[..., Detector]] = {
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "atss": build_atss,
    "ssd": build_ssd,
    "ga_retinanet": build_ga_retinanet,
    "nas_fcos": build_nas_fcos,
    "vfnet": build_vfnet,
    "centernet": build_centernet,
    "yolov4": build_yolov4,
    "faster_rcnn": build_faster_rcnn,
    "cascade_rcnn": build_cascade_rcnn,
    "detr": build_detr,
    "deformable_detr": build_deformable_detr,
    "ga_faster_rcnn": build_ga_faster_rcnn,
}


def build_detector(options: Model, *, num_classes: int) -> Detector:
    """The detector of the model section of a recipe."""
    return DETECTORS[options.name](options, num_classes=num_classes)
