"""The `model` section of Deformable DETR."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.blocks import NORM_GROUPS
from detcli.recipe.sections.models.detr import (
    HungarianAssigner,
    L1Weight,
    SetBackbone,
    SetBoxLoss,
    SetTransformer,
)
from detcli.recipe.sections.section import ScoreThreshold, Section


class DeformableTransformer(SetTransformer):
    """Transformer encoder and decoder."""

    channels: int = Field(256, gt=0, multiple_of=NORM_GROUPS, description="Embedding dimension")
    ffn_channels: int = Field(1024, gt=0, description="Hidden channels of the feed-forward network")
    num_levels: int = Field(
        4, ge=3, le=6, description="Feature levels: C3, C4, C5, then convolutions of stride 2"
    )
    num_points: int = Field(4, gt=0, description="Sampling points per attention head and level")


class SetFocalLoss(Section):
    """Focal loss of every query and class, divided by the number of objects."""

    name: Literal["focal"] = Field("focal", description="Classification loss")
    alpha: float = Field(0.25, ge=0, le=1, description="Weight of positives; negatives: 1 - alpha")
    gamma: float = Field(2.0, ge=0, description="Focal loss: down-weighting of easy examples")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Label smoothing of matched queries: 1 - this, others this"
    )
    weight: float = Field(2.0, gt=0, description="Loss weight")


class DeformableHungarian(HungarianAssigner):
    """Hungarian matching: one query per object, minimum total cost."""

    class_cost: float = Field(2.0, ge=0, description="Weight of the classification cost")


class DeformableDetr(Section):
    """Deformable DETR (Zhu et al. 2021)."""

    enables: ClassVar = ("optim.sampling_lr_mult",)

    name: Literal["deformable_detr"] = Field(description="Deformable DETR")
    backbone: SetBackbone = Field(SetBackbone(), description="Backbone network")
    transformer: DeformableTransformer = Field(
        DeformableTransformer(), description="Transformer encoder and decoder"
    )
    num_queries: int = Field(300, gt=0, description="Number of object queries")
    refine: bool = Field(
        False,
        description="Iterative box refinement: each decoder layer refines the box of the one "
        "before",
    )
    two_stage: bool = Field(
        False, description="Two-stage: queries are the top-scoring encoder proposals; needs refine"
    )
    assigner: DeformableHungarian = Field(
        DeformableHungarian(), description="Hungarian matching of queries and objects"
    )
    class_loss: SetFocalLoss = Field(SetFocalLoss(), description="Classification loss")
    l1_weight: L1Weight = 5.0
    box_loss: SetBoxLoss = Field(
        SetBoxLoss(name="giou", weight=2.0), description="Box loss in addition to L1, such as GIoU"
    )
    score_threshold: ScoreThreshold = 0.0
    max_candidates: int = Field(
        100, gt=0, description="Number of (query, class) pairs kept as candidates (top k)"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.two_stage and not self.refine:
            yield "two_stage", "needs iterative box refinement: set refine: true"
