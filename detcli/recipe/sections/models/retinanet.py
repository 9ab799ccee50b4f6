"""The model section of RetinaNet."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import SideLoss
from detcli.recipe.sections.models.dense import Detector
from detcli.recipe.sections.network import RetinaNetHead
from detcli.recipe.sections.priors import Anchors, Assigner, MaxIouAssigner, size_problems


class RetinaNet(Detector):
    """RetinaNet (Lin et al. 2017)."""

    name: Literal["retinanet"] = Field(description="RetinaNet")
    head: RetinaNetHead = Field(RetinaNetHead(), description="Prediction head")
    anchors: Anchors = Field(Anchors(), description="Anchor boxes per location")
    assigner: Assigner = Field(
        MaxIouAssigner(name="max_iou"), description="Label assignment of anchors"
    )
    box_loss: SideLoss = Field(SideLoss(name="l1"), description="Box regression loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from size_problems(self.anchors, self.neck.num_levels)
