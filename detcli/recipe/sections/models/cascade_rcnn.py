"""The model section of Cascade R-CNN."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.models.two_stage import RegionDetector, Rpn
from detcli.recipe.sections.priors import size_problems
from detcli.recipe.sections.section import ABOVE_ZERO, Numbers, SizesPerLevel, rule

Ious = Annotated[
    Numbers,
    Field(min_length=1),
    rule(lambda ious: all(0 < iou <= 1 for iou in ious), "numbers above 0, up to 1"),
]


class CascadeRcnn(RegionDetector):
    """Cascade R-CNN (Cai and Vasconcelos 2018) on a feature pyramid."""

    name: Literal["cascade_rcnn"] = Field(description="Cascade R-CNN")
    rpn: Rpn = Field(Rpn(), description="First stage: region proposal network (RPN)")
    stage_ious: Ious = Field(
        (0.5, 0.6, 0.7), description="IoU threshold of positive proposals, one value per stage"
    )
    stage_stds: SizesPerLevel = Field(
        ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
        description="Encoded offsets (x, y, w, h) are divided by these, a list per stage",
    )
    stage_weights: Annotated[Numbers, ABOVE_ZERO] = Field(
        (1.0, 0.5, 0.25), description="Loss weight of each stage"
    )
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=1.0), description="Box regression loss of every stage"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from size_problems(self.rpn.anchors, self.neck.num_levels, "rpn.")
        stages = len(self.stage_ious)
        for key in ("stage_stds", "stage_weights"):
            if (found := len(getattr(self, key))) != stages:
                yield key, f"expected {stages} values, as stage_ious has, got {found}"
        if any(len(stds) != 4 or min(stds) <= 0 for stds in self.stage_stds):
            yield "stage_stds", "expected four numbers greater than 0 for each stage"
