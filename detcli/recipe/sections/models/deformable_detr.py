"""The `model` section of Deformable DETR."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.blocks import NORM_GROUPS
from detcli.recipe.sections.models.detr import (
    HungarianAssigner,
    SetBackbone,
    SetBoxLoss,
    SetTransformer,
)
from detcli.recipe.sections.section import Section


class DeformableTransformer(SetTransformer):
    """Encoder and decoder."""

    channels: int = Field(
        256, gt=0, multiple_of=NORM_GROUPS, description="Numbers of each token and query"
    )
    ffn_channels: int = Field(1024, gt=0, description="Channels between a layer's two last maps")
    num_levels: int = Field(
        4, ge=3, le=6, description="Maps: C3, C4, C5, and convolutions of stride 2 beyond"
    )
    num_points: int = Field(4, gt=0, description="Places that a head looks at in each map")


class SetFocalLoss(Section):
    """Focal loss of every query and class, divided by the number of objects."""

    name: Literal["focal"] = Field("focal", description="Classification loss")
    alpha: float = Field(0.25, ge=0, le=1, description="Weight of the positives; 1 - alpha: others")
    gamma: float = Field(2.0, ge=0, description="How strongly easy examples are damped")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Queries with an object: targets 1 - this, and this elsewhere",
    )
    weight: float = Field(2.0, gt=0, description="Multiple of the loss in the sum")


class DeformableHungarian(HungarianAssigner):
    """One query for each object, so that the sum of the costs is smallest."""

    class_cost: float = Field(2.0, ge=0, description="Multiple of the cost by the class score")


class DeformableDetr(Section):
    """Deformable DETR (Zhu et al. 2021)."""

    enables: ClassVar = ("optim.sampling_lr_mult",)

    name: Literal["deformable_detr"] = Field(description="Deformable DETR")
    backbone: SetBackbone = Field(SetBackbone(), description="The network that reads the image")
    transformer: DeformableTransformer = Field(
        DeformableTransformer(), description="Encoder and decoder"
    )
    num_queries: int = Field(300, gt=0, description="Boxes that are predicted in an image")
    refine: bool = Field(
        False,
        description="Each decoder layer corrects the box of the one before, with its own head",
    )
    two_stage: bool = Field(
        False, description="Queries are the best boxes that the encoder proposes; needs refine"
    )
    assigner: DeformableHungarian = Field(
        DeformableHungarian(), description="Which query learns which object"
    )
    class_loss: SetFocalLoss = Field(SetFocalLoss(), description="Classification loss")
    l1_weight: float = Field(
        5.0, gt=0, description="Multiple of the L1 loss of centre and sides, in shares of the image"
    )
    box_loss: SetBoxLoss = Field(
        SetBoxLoss(name="giou", weight=2.0), description="Regression loss beside it, of boxes"
    )
    score_threshold: float = Field(
        0.0, ge=0, lt=1, description="Candidates must have a higher class score"
    )
    max_candidates: int = Field(
        100, gt=0, description="Best pairs of query and class that are candidates"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.two_stage and not self.refine:
            yield "two_stage", "the second stage corrects the boxes of the first: set refine: true"
