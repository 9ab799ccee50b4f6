"""The model section of NAS-FCOS."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.blocks import NORM_GROUPS
from detcli.recipe.sections.losses import AnyClassLoss, DensityBranch, FocalLoss, SideLoss
from detcli.recipe.sections.models.dense import Auxiliary, IouBranch, _group_norm_needs
from detcli.recipe.sections.network import AnyBackbone, Backbone, NasFcosNeck, SearchedHead
from detcli.recipe.sections.priors import Assigner, EnlargedObjects, FcosAssigner
from detcli.recipe.sections.section import Section


class NasFcos(Section):
    """NAS-FCOS (Wang et al. 2020): FCOS with searched neck and head."""

    name: Literal["nas_fcos"] = Field(description="NAS-FCOS")
    backbone: AnyBackbone = Field(Backbone(), description="Backbone network")
    neck: NasFcosNeck = Field(NasFcosNeck(), description="Neck: feature pyramid")
    head: SearchedHead = Field(SearchedHead(), description="Prediction head")
    assigner: Assigner = Field(FcosAssigner(name="fcos"), description="Label assignment of points")
    anchor_scale: float = Field(
        8.0, gt=0, description="Size of the square reference box, in strides, where a box is needed"
    )
    class_loss: AnyClassLoss = Field(FocalLoss(name="focal"), description="Classification loss")
    box_loss: SideLoss = Field(SideLoss(name="iou"), description="Box regression loss")
    centerness_weight: float = Field(1.0, gt=0, description="Weight of the centre-ness loss")
    score_threshold: float = Field(
        0.05, ge=0, lt=1, description="Score threshold of the candidates"
    )
    topk_per_level: int = Field(1000, gt=0, description="Candidates kept per level before NMS")
    iou_branch: IouBranch | None = Field(None, description="IoU prediction branch; null: off")
    density_branch: DensityBranch | None = Field(
        None, description="Density branch: predicted overlap with other objects; null: off"
    )
    auxiliary: Auxiliary | None = Field(
        None, description="Auxiliary head with looser label assignment (training only); null: off"
    )
    enlarge_small: EnlargedObjects | None = Field(
        None, description="Label assignment of small objects with an enlarged box; null: off"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        channels = self.neck.out_channels
        if self.head.norm == "gn" and (channels % NORM_GROUPS or channels == NORM_GROUPS):
            yield "neck.out_channels", _group_norm_needs(channels)
