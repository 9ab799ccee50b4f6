"""What the model sections of detectors on a feature pyramid share."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.blocks import NORM_GROUPS
from detcli.recipe.sections.losses import (
    AnyClassLoss,
    DensityBranch,
    FocalLoss,
)
from detcli.recipe.sections.network import (
    BOTTLENECK,
    CONV_DIVISOR,
    AnyBackbone,
    AnyNeck,
    Backbone,
    Head,
    Neck,
)
from detcli.recipe.sections.priors import (
    EnlargedObjects,
)
from detcli.recipe.sections.section import Section


class IouBranch(Section):
    """A predicted IoU for every box (Wu et al. 2020; PP-YOLO, Long et al. 2020)."""

    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Score: class probability^(1 - this) x predicted IoU^this; 0: only the column",
    )


class Auxiliary(Section):
    """A second head on the same maps, in training only (YOLOv7, Wang et al. 2022)."""

    weight: float = Field(0.25, gt=0, description="Multiple of its losses in the sum")
    relax: float = Field(
        2.0, gt=1, description="How much looser its assignment is: thresholds / this, reach x this"
    )
    topk: int = Field(
        20, gt=0, description="An object keeps the sum of its best so many IoUs of looser positives"
    )


class Dense(Section):
    """What every detector on a feature pyramid has."""

    backbone: AnyBackbone = Field(Backbone(), description="The network that reads the image")
    neck: AnyNeck = Field(Neck(), description="The feature pyramid")
    head: Head = Field(Head(), description="The branches")
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    topk_per_level: int = Field(1000, gt=0, description="Best candidates kept per level")
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Small objects are assigned by a larger box; null: off"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if self.head.norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
            yield "neck.out_channels", _group_norm_needs(channels)
        elif (reason := _misfit(self.head, channels)) is not None:
            yield "neck.out_channels", f"head.conv {self.head.conv} {reason}, got {channels}"


class Detector(Dense):
    """What the detectors have whose head predicts one box per prior, from either start."""

    regression: Literal["box", "point"] = Field(
        "box", description="Regress from the anchor box, or side distances from its centre"
    )
    iou_branch: IouBranch | None = Field(
        None, description="Predict the IoU of each box with its object; null: off"
    )
    density_branch: DensityBranch | None = Field(
        None, description="Predict how far each object overlaps with another; null: off"
    )
    auxiliary: Auxiliary | None = Field(
        None, description="A coarser second head beside the one that is kept; null: off"
    )


def _group_norm_needs(channels: int) -> str:
    return (
        f"head.norm gn has {NORM_GROUPS} groups of 2 or more channels: expected a multiple of "
        f"{NORM_GROUPS} from {2 * NORM_GROUPS} on, got {channels}"
    )


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
