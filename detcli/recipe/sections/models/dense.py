"""What the model sections of detectors on a feature pyramid share."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from detcli.recipe.sections.blocks import NORM_GROUPS, misgrouped
from detcli.recipe.sections.losses import AnyClassLoss, DensityOption, FocalLoss
from detcli.recipe.sections.network import (
    BOTTLENECK,
    CONV_DIVISOR,
    AnyBackbone,
    AnyNeck,
    Backbone,
    Head,
    Neck,
)
from detcli.recipe.sections.priors import EnlargeSmall, Regression
from detcli.recipe.sections.section import ScoreThreshold, Section


class IouBranch(Section):
    """IoU branch: a predicted IoU per box (Wu et al. 2020; PP-YOLO, Long et al. 2020)."""

    weight: float = Field(1.0, gt=0, description="Loss weight")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Score = class probability^(1 - this) x predicted IoU^this; 0: only the column",
    )


class Auxiliary(Section):
    """Auxiliary head on the same features, training only (YOLOv7, Wang et al. 2022)."""

    weight: float = Field(0.25, gt=0, description="Weight of its losses")
    relax: float = Field(
        2.0, gt=1, description="Looser label assignment: thresholds / this, radius x this"
    )
    topk: int = Field(
        20, gt=0, description="Dynamic k: positives per object = sum of its top-k IoUs"
    )


AuxiliaryOption = Annotated[
    Auxiliary | None,
    Field(description="Auxiliary head with looser label assignment (training only); null: off"),
]


class Dense(Section):
    """What every detector on a feature pyramid has."""

    backbone: AnyBackbone = Field(Backbone(), description="Backbone network")
    neck: AnyNeck = Field(Neck(), description="Neck: feature pyramid")
    head: Head = Field(Head(), description="Prediction head")
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    score_threshold: ScoreThreshold = 0.05
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")
    enlarge_small: EnlargeSmall = None

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if reason := misgrouped(self.head.norm, channels):
            yield "neck.out_channels", f"head.{reason}"
        elif (reason := _misfit(self.head, channels)) is not None:
            yield "neck.out_channels", f"head.conv {self.head.conv} {reason}, got {channels}"


class Detector(Dense):
    """What the detectors have whose head predicts one box per prior, from either start."""

    regression: Regression = "box"
    iou_branch: IouBranch | None = Field(None, description="IoU prediction branch; null: off")
    density_branch: DensityOption = None
    auxiliary: AuxiliaryOption = None


def _misfit(head: Head, channels: int) -> str | None:
    """Why the kind of the head's convolutions cannot have this many channels."""
    divisor = CONV_DIVISOR.get(head.conv, 1)
    if channels % divisor:
        return f"needs a multiple of {divisor}"
    groups = NORM_GROUPS * BOTTLENECK
    in_groups = head.conv == "bottleneck" and head.norm == "gn"
    if in_groups and (channels % groups or channels == groups):
        return f"with norm gn needs a multiple of {groups} from {2 * groups} on"
    return None
