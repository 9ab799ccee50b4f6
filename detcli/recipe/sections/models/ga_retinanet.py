"""The model section of RetinaNet with guided anchoring."""

from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.models.dense import Dense
from detcli.recipe.sections.models.guided import Guidance
from detcli.recipe.sections.network import AnyNeck, Neck, RetinaNetHead
from detcli.recipe.sections.priors import MaxIouAssigner


class GaRetinaNet(Dense):
    """RetinaNet with guided anchoring (Wang et al. 2019)."""

    name: Literal["ga_retinanet"] = Field(description="RetinaNet with guided anchoring")
    neck: AnyNeck = Field(Neck(extra_from="c5"), description="Neck: feature pyramid")
    head: RetinaNetHead = Field(RetinaNetHead(), description="Prediction head")
    guidance: Guidance = Field(Guidance(), description="Guided anchoring")
    assigner: MaxIouAssigner = Field(
        MaxIouAssigner(name="max_iou", negative_iou=0.5),
        description="Label assignment of the predicted anchors",
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=0.04), description="Box regression loss"
    )
