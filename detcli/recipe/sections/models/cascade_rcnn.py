"""The model section of Cascade R-CNN."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.losses import BoxLoss
from detcli.recipe.sections.models.two_stage import RegionDetector, Rpn, _size_problems
from detcli.recipe.sections.section import Numbers, SizesPerLevel


class CascadeRcnn(RegionDetector):
    """Cascade R-CNN (Cai and Vasconcelos 2018) on a feature pyramid."""

    name: Literal["cascade_rcnn"] = Field(description="Cascade R-CNN")
    rpn: Rpn = Field(Rpn(), description="First stage: region proposal network (RPN)")
    stage_ious: Numbers = Field(
        (0.5, 0.6, 0.7),
        min_length=1,
        description="IoU threshold of positive proposals, one value per stage",
    )
    stage_stds: SizesPerLevel = Field(
        ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
        description="Encoded offsets (x, y, w, h) are divided by these, a list per stage",
    )
    stage_weights: Numbers = Field((1.0, 0.5, 0.25), description="Loss weight of each stage")
    box_loss: BoxLoss = Field(
        BoxLoss(name="smooth_l1", beta=1.0), description="Box regression loss of every stage"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _size_problems(self.rpn, self.neck.num_levels)
        stages = len(self.stage_ious)
        for key in ("stage_stds", "stage_weights"):
            if len(getattr(self, key)) != stages:
                yield (
                    key,
                    f"expected {stages} values, as stage_ious has, got {len(getattr(self, key))}",
                )
        if any(not 0 < iou <= 1 for iou in self.stage_ious):
            yield "stage_ious", f"expected numbers above 0, up to 1, got {list(self.stage_ious)}"
        if any(len(stds) != 4 or min(stds) <= 0 for stds in self.stage_stds):
            yield "stage_stds", "expected four numbers greater than 0 for each stage"
        if any(weight <= 0 for weight in self.stage_weights):
            yield (
                "stage_weights",
                f"expected numbers greater than 0, got {list(self.stage_weights)}",
            )
