"""The model section of Faster R-CNN."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.models.two_stage import OneLook, Rpn
from detcli.recipe.sections.priors import size_problems


class FasterRcnn(OneLook):
    """Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017)."""

    name: Literal["faster_rcnn"] = Field(description="Faster R-CNN")
    rpn: Rpn = Field(Rpn(), description="First stage: region proposal network (RPN)")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from size_problems(self.rpn.anchors, self.neck.num_levels, "rpn.")
