"""The model section of Faster R-CNN with guided anchoring."""

from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.models.guided import (
    BaseScale,
    BestIou,
    Guidance,
    ShapeAssigner,
    ShapeStd,
)
from detcli.recipe.sections.models.two_stage import RPN_ASSIGNER, OneLook, Proposals, Sampler
from detcli.recipe.sections.priors import BoxDeltaStds, MaxIouAssigner
from detcli.recipe.sections.section import Section


class RpnShapeAssigner(ShapeAssigner):
    """Assignment of the anchor shape branch, by the IoU of fixed anchors at each cell."""

    positive_iou: float = Field(0.7, gt=0, le=1, description="IoU threshold of positives")
    negative_iou: float = Field(0.3, ge=0, le=1, description="IoU threshold of negatives")
    min_positive_iou: BestIou = 0.3


class RpnGuidance(Guidance):
    """Guided anchoring: predicted locations and shapes of anchors."""

    base_scale: BaseScale = 8.0
    shape_std: ShapeStd = 0.14
    shape_assigner: RpnShapeAssigner = Field(
        RpnShapeAssigner(), description="Label assignment of the anchor shape branch"
    )


class GuidedRpn(Section):
    """Region proposal network with one predicted anchor per cell."""

    guidance: RpnGuidance = Field(RpnGuidance(), description="Guided anchoring")
    assigner: MaxIouAssigner = Field(
        RPN_ASSIGNER, description="Label assignment of the predicted anchors"
    )
    sampler: Sampler = Field(Sampler(), description="Sampling of positives and negatives")
    delta_stds: BoxDeltaStds = (0.07, 0.07, 0.11, 0.11)
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=1.0), description="Box regression loss"
    )
    proposals: Proposals = Field(Proposals(), description="Proposals of the second stage")


class GaFasterRcnn(OneLook):
    """Faster R-CNN with guided anchoring (Wang et al. 2019)."""

    name: Literal["ga_faster_rcnn"] = Field(description="Faster R-CNN with guided anchoring")
    rpn: GuidedRpn = Field(GuidedRpn(), description="First stage: region proposal network (RPN)")
