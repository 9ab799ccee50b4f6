"""The `model` section of DETR."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.network import Backbone, BackboneNorm
from detcli.recipe.sections.section import ScoreThreshold, Section

LEARNED_CELLS = 50  # a side of the map that learned positions have codes for
L1Weight = Annotated[
    float, Field(gt=0, description="Weight of the L1 loss of centre, width and height (normalised)")
]


class SetBackbone(Backbone):
    """ResNet of set predictors: frozen batch norms."""

    norm: BackboneNorm = "frozen_bn"


class DetrBackbone(SetBackbone):
    """The same, with a choice of the feature map for the transformer."""

    last_map: Literal["c5", "dc5", "c4"] = Field(
        "c5",
        description="Output feature map; c5: stride 32; dc5: stride 16, with dilation 2 in "
        "the last stage but for its first block; c4: stride 16, without the last "
        "stage",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.last_map == "dc5" and self.dilation is not None and 4 in self.dilation.stages:
            yield "dilation.stages", "dc5 dilates stage 4 already; leave it out here"
        for key in ("attention", "dcn", "dilation") if self.last_map == "c4" else ():
            block = getattr(self, key)
            if block is not None and 4 in block.stages:
                yield f"{key}.stages", "there is no stage 4 with last_map: c4"


class SetTransformer(Section):
    """Transformer encoder and decoder of a set predictor."""

    channels: int = Field(256, gt=0, multiple_of=4, description="Embedding dimension")
    num_heads: int = Field(8, gt=0, description="Attention heads")
    encoder_layers: int = Field(6, ge=0, description="Encoder layers")
    decoder_layers: int = Field(6, gt=0, description="Decoder layers, with auxiliary losses")
    ffn_channels: int = Field(2048, gt=0, description="Hidden channels of the feed-forward network")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout probability")
    recompute: bool = Field(
        False,
        description="Gradient checkpointing: recompute activations in the backward pass; "
        "saves memory, costs time",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.channels % self.num_heads:
            yield "num_heads", f"expected a divisor of {self.channels} channels"


class Transformer(SetTransformer):
    """Transformer encoder and decoder."""

    norm_first: bool = Field(
        False, description="Pre-norm: norm before attention and feed-forward, not after"
    )


class HungarianAssigner(Section):
    """Hungarian matching: one query per object, minimum total cost."""

    name: Literal["hungarian"] = Field("hungarian", description="Label assignment method")
    class_cost: float = Field(1.0, ge=0, description="Weight of the classification cost")
    l1_cost: float = Field(5.0, ge=0, description="Weight of the L1 box cost")
    giou_cost: float = Field(2.0, ge=0, description="Weight of the GIoU cost")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.class_cost + self.l1_cost + self.giou_cost:
            yield "class_cost", "the three matching costs are all 0: set one above 0"


class SetSoftmaxLoss(Section):
    """Cross entropy of a soft-max over the classes and no-object."""

    name: Literal["softmax"] = Field("softmax", description="Classification loss")
    no_object_weight: float = Field(
        0.1, gt=0, description="Weight of the no-object class (eos_coef)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Label smoothing of matched queries, over all classes"
    )
    weight: float = Field(1.0, gt=0, description="Loss weight")


class SetBoxLoss(BoxLoss):
    """Regression loss of boxes in pixels, in addition to the L1 loss of what is regressed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.name in ("l1", "l2", "smooth_l1"):
            yield "name", f"expected one that compares boxes, as giou, got {self.name}: l1_weight"


class Detr(Section):
    """DETR (Carion et al. 2020)."""

    name: Literal["detr"] = Field(description="DETR")
    backbone: DetrBackbone = Field(DetrBackbone(), description="Backbone network")
    positions: Literal["sine", "learned"] = Field(
        "sine", description=f"Positional encoding; learned: up to {LEARNED_CELLS} cells a side"
    )
    transformer: Transformer = Field(Transformer(), description="Transformer encoder and decoder")
    num_queries: int = Field(100, gt=0, description="Number of object queries (maximum detections)")
    assigner: HungarianAssigner = Field(
        HungarianAssigner(), description="Hungarian matching of queries and objects"
    )
    class_loss: SetSoftmaxLoss = Field(SetSoftmaxLoss(), description="Classification loss")
    l1_weight: L1Weight = 5.0
    box_loss: SetBoxLoss = Field(
        SetBoxLoss(name="giou", weight=2.0), description="Box loss in addition to L1, such as GIoU"
    )
    score_threshold: ScoreThreshold = 0.0

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        stride = 32 if self.backbone.last_map == "c5" else 16
        resize = recipe.data.resize
        side = resize.long if resize.keep_aspect else max(resize.short)
        if self.positions == "learned" and math.ceil(side / stride) > LEARNED_CELLS:
            yield (
                f"{key}.positions",
                f"learned encodings cover {LEARNED_CELLS} cells of {stride} pixels a side; images "
                f"have up to {side} pixels; take sine, or a smaller data.resize.long",
            )
