"""The model section of NAS-FCOS."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.blocks import misgrouped
from detcli.recipe.sections.losses import AnyClassLoss, DensityOption, FocalLoss, SideLoss
from detcli.recipe.sections.models.dense import AuxiliaryOption, IouBranch
from detcli.recipe.sections.network import AnyBackbone, Backbone, NasFcosNeck, SearchedHead
from detcli.recipe.sections.priors import Assigner, EnlargeSmall, FcosAssigner, ReferenceScale
from detcli.recipe.sections.section import ScoreThreshold, Section


class NasFcos(Section):
    """NAS-FCOS (Wang et al. 2020): FCOS with searched neck and head."""

    name: Literal["nas_fcos"] = Field(description="NAS-FCOS")
    backbone: AnyBackbone = Field(Backbone(), description="Backbone network")
    neck: NasFcosNeck = Field(NasFcosNeck(), description="Neck: feature pyramid")
    head: SearchedHead = Field(SearchedHead(), description="Prediction head")
    assigner: Assigner = Field(FcosAssigner(name="fcos"), description="Label assignment of points")
    anchor_scale: ReferenceScale = 8.0
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    box_loss: SideLoss = Field(SideLoss(name="iou"), description="Box regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Weight of the centre-ness loss")
    score_threshold: ScoreThreshold = 0.05
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")
    iou_branch: IouBranch | None = Field(None, description="IoU prediction branch; null: off")
    density_branch: DensityOption = None
    auxiliary: AuxiliaryOption = None
    enlarge_small: EnlargeSmall = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if reason := misgrouped(self.head.norm, self.neck.out_channels):
            yield "neck.out_channels", f"head.{reason}"
