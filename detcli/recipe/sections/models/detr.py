"""The `model` section of DETR."""

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.network import Backbone
from detcli.recipe.sections.section import Section

LEARNED_CELLS = 50  # a side of the map that learned positions have codes for


class SetBackbone(Backbone):
    """ResNet as set predictors have it: all norms are constants."""

    norm: Literal["bn", "frozen_bn", "sync_bn", "gn", "ln", "in"] = Field(
        "frozen_bn",
        description="Norm layers; frozen_bn: statistics, scales and shifts are constants",
    )


class DetrBackbone(SetBackbone):
    """The same, with a choice of the map that attention looks at."""

    last_map: Literal["c5", "dc5", "c4"] = Field(
        "c5",
        description="c5: of stride 32; dc5: the last stage keeps the size of its input, so that "
        "the stride is 16, and its blocks but the first see twice as far (dilation 2); c4: of "
        "stride 16, there is no last stage",
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
    """Encoder and decoder of a set predictor."""

    channels: int = Field(256, gt=0, multiple_of=4, description="Numbers of each token and query")
    num_heads: int = Field(8, gt=0, description="Heads of every attention")
    encoder_layers: int = Field(6, ge=0, description="Layers over the cells of the image")
    decoder_layers: int = Field(6, gt=0, description="Layers of the queries; each has its losses")
    ffn_channels: int = Field(2048, gt=0, description="Channels between a layer's two last maps")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of zeros in training")
    recompute: bool = Field(
        False,
        description="Gradient checkpointing: what is inside a layer is computed again in the "
        "backward pass, which saves memory and costs time",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.channels % self.num_heads:
            yield "num_heads", f"expected a divisor of {self.channels} channels"


class Transformer(SetTransformer):
    """Encoder and decoder."""

    norm_first: bool = Field(
        False, description="Norm before attention and feed-forward layers, not after their sum"
    )


class HungarianAssigner(Section):
    """One query for each object, so that the sum of the costs is smallest."""

    name: Literal["hungarian"] = Field("hungarian", description="Assignment rule")
    class_cost: float = Field(1.0, ge=0, description="Multiple of the cost by the class score")
    l1_cost: float = Field(5.0, ge=0, description="Multiple of the L1 distance of the boxes")
    giou_cost: float = Field(2.0, ge=0, description="Multiple of minus the generalised IoU")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.class_cost + self.l1_cost + self.giou_cost:
            yield "class_cost", "the three costs are all 0: any query would do for any object"


class SetSoftmaxLoss(Section):
    """Cross entropy of a soft-max over the classes and no-object."""

    name: Literal["softmax"] = Field("softmax", description="Classification loss")
    no_object_weight: float = Field(
        0.1, gt=0, description="Weight of a query without an object in the mean of the loss"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Queries with an object: this share of the target goes to all"
    )
    weight: float = Field(1.0, gt=0, description="Multiple of the loss in the sum")


class SetBoxLoss(BoxLoss):
    """Regression loss of boxes in pixels, beside the L1 loss of what is regressed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.name in ("l1", "l2", "smooth_l1"):
            yield "name", f"expected one that compares boxes, as giou, got {self.name}: l1_weight"


class Detr(Section):
    """DETR (Carion et al. 2020)."""

    name: Literal["detr"] = Field(description="DETR")
    backbone: DetrBackbone = Field(DetrBackbone(), description="The network that reads the image")
    positions: Literal["sine", "learned"] = Field(
        "sine", description=f"Codes of the cells; learned: for maps of up to {LEARNED_CELLS} a side"
    )
    transformer: Transformer = Field(Transformer(), description="Encoder and decoder")
    num_queries: int = Field(100, gt=0, description="Objects that can be found in an image")
    assigner: HungarianAssigner = Field(
        HungarianAssigner(), description="Which query learns which object"
    )
    class_loss: SetSoftmaxLoss = Field(SetSoftmaxLoss(), description="Classification loss")
    l1_weight: float = Field(
        5.0, gt=0, description="Multiple of the L1 loss of centre and sides, in shares of the image"
    )
    box_loss: SetBoxLoss = Field(
        SetBoxLoss(name="giou", weight=2.0), description="Regression loss beside it, of boxes"
    )
    score_threshold: float = Field(
        0.0, ge=0, lt=1, description="Candidates must have a higher class score"
    )

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        stride = 32 if self.backbone.last_map == "c5" else 16
        resize = recipe.data.resize
        side = resize.long if resize.keep_aspect else max(resize.short)
        if self.positions == "learned" and math.ceil(side / stride) > LEARNED_CELLS:
            yield (
                f"{key}.positions",
                f"learned has codes for {LEARNED_CELLS} cells of {stride} pixels a side; images "
                f"have up to {side} pixels; take sine, or a smaller data.resize.long",
            )
