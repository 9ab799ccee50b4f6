"""The section `postprocess`: one class per suppression method.

Here, and only here, stand a method's options with their defaults and ranges, which of them act,
and the column of the candidates that it needs. `nms-compare --method` is checked against the same
classes. What the methods do is told by the functions of the same names in detcli.postprocess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from detcli.recipe.sections.section import Section

IouThreshold = Annotated[
    float, Field(ge=0, le=1, description="IoU above which the lower-scored box is suppressed")
]
Metric = Annotated[
    Literal["iou", "diou"], Field(description="Overlap measure; diou: IoU minus centre distance")
]
Sigma = Annotated[float, Field(gt=0, description="Sigma of the Gaussian score decay")]
ScoreThreshold = Annotated[
    float, Field(ge=0, le=1, description="Boxes with a decayed score of at most this are dropped")
]
SkipBoxThreshold = Annotated[
    float, Field(ge=0, le=1, description="Score threshold: boxes below it are not fused")
]
METHOD = "NMS or box-fusion method; none: the top candidates"
KIND = "Score decay of overlapping boxes; hard: the boxes are dropped"


@dataclass(frozen=True)
class Column:
    """A column of `Detections.extra`, `width` numbers per box, written by a detector whose
    option `model.<key>` is set (to `value`)."""

    name: str
    meaning: str
    key: str
    value: str | None = None
    width: int = 1
    positive: bool = False

    @property
    def setting(self) -> str:
        """What writes it, in words."""
        return f"model.{self.key}" + (f" {self.value}" if self.value else "")

    def is_written_by(self, model: object) -> bool:
        """Whether the detector of this section predicts it."""
        for part in self.key.split("."):
            model = getattr(model, part, None)
        return model is not None and self.value in (None, model)


class AnyMethod(Section):
    """What every method has."""

    column: ClassVar[Column | None] = None

    max_per_image: int = Field(100, gt=0, description="Maximum detections per image")

    @classmethod
    def acting(cls, options: Mapping[str, Any]) -> list[str]:
        """The options that have an effect beside these (or, where left out, the defaults)."""
        keys = [key for key in cls.model_fields if key != "method"]
        if not cls.acts_with:
            return keys
        choice = options.get(cls.chooser, cls.model_fields[cls.chooser].default)
        return [key for key in keys if choice in cls.acts_with.get(key, (choice,))]

    def acting_options(self) -> dict[str, Any]:
        """Option -> value of those that have an effect."""
        values = self.model_dump()
        return {key: values[key] for key in self.acting(values)}


class Suppression(AnyMethod):
    """What every method but none has."""

    class_agnostic: bool = Field(
        False, description="Class-agnostic NMS: boxes of different classes suppress each other"
    )


class Nms(Suppression):
    """Greedy non-maximum suppression."""

    method: Literal["nms"] = Field("nms", description=METHOD)
    iou_threshold: IouThreshold = 0.5
    metric: Metric = "iou"


class Diou(Suppression):
    """Greedy suppression with the metric diou (Zheng et al. 2020)."""

    method: Literal["diou"] = Field(description=METHOD)
    iou_threshold: IouThreshold = 0.5


class Soft(Suppression):
    """Soft-NMS (Bodla et al. 2017)."""

    chooser: ClassVar[str] = "kind"
    acts_with: ClassVar = {"iou_threshold": ("linear",), "sigma": ("gaussian",)}

    method: Literal["soft"] = Field(description=METHOD)
    kind: Literal["gaussian", "linear"] = Field("gaussian", description=KIND)
    iou_threshold: IouThreshold = 0.3
    sigma: Sigma = 0.5
    score_threshold: ScoreThreshold = 0.001
    metric: Metric = "iou"


class Weighted(Suppression):
    """Weighted-NMS (Ning et al. 2017)."""

    method: Literal["weighted"] = Field(description=METHOD)
    iou_threshold: IouThreshold = 0.5
    metric: Metric = "iou"


class Wbf(Suppression):
    """Weighted boxes fusion (Solovyev et al. 2021); defaults of ensemble-boxes."""

    chooser: ClassVar[str] = "conf_type"
    acts_with: ClassVar = {"allows_overflow": ("avg",)}

    method: Literal["wbf"] = Field(description=METHOD)
    iou_threshold: IouThreshold = 0.55
    skip_box_threshold: SkipBoxThreshold = 0.0
    conf_type: Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"] = Field(
        "avg", description="Score of a fused box"
    )
    allows_overflow: bool = Field(
        False, description="More boxes than models may raise a fused score above the mean"
    )


class Nmw(Suppression):
    """Non-maximum weighted (Zhou et al. 2017); defaults of ensemble-boxes."""

    method: Literal["nmw"] = Field(description=METHOD)
    iou_threshold: IouThreshold = 0.55
    skip_box_threshold: SkipBoxThreshold = 0.0


class Matrix(Suppression):
    """Matrix NMS (Wang et al. 2020)."""

    chooser: ClassVar[str] = "kernel"
    acts_with: ClassVar = {"sigma": ("gaussian",)}

    method: Literal["matrix"] = Field(description=METHOD)
    kernel: Literal["gaussian", "linear"] = Field(
        "gaussian", description="Score decay with overlap"
    )
    sigma: Sigma = 0.5
    score_threshold: ScoreThreshold = 0.001
    metric: Metric = "iou"


class IouGuided(Suppression):
    """IoU-guided NMS (Jiang et al. 2018)."""

    column: ClassVar = Column("iou", "predicted IoU of the box with its object", "iou_branch")

    method: Literal["iou_guided"] = Field(description=METHOD)
    iou_threshold: IouThreshold = 0.5
    metric: Metric = "iou"


class Softer(Suppression):
    """Softer-NMS: variance voting (He et al. 2019)."""

    column: ClassVar = Column(
        "sigma",
        "standard deviations of left, top, right and bottom in pixels of the original image",
        "box_loss.name",
        "kl",
        width=4,
        positive=True,
    )
    chooser: ClassVar[str] = "kind"
    acts_with: ClassVar = {
        "iou_threshold": ("linear", "hard"),
        "sigma": ("gaussian",),
        "score_threshold": ("gaussian", "linear"),
    }

    method: Literal["softer"] = Field(description=METHOD)
    kind: Literal["gaussian", "linear", "hard"] = Field("gaussian", description=KIND)
    iou_threshold: IouThreshold = 0.5
    sigma: Sigma = 0.5
    score_threshold: ScoreThreshold = 0.001
    sigma_t: float = Field(0.02, gt=0, description="Voting weight exp(-(1 - IoU)^2 / this)")
    metric: Metric = "iou"


class Adaptive(Suppression):
    """Adaptive NMS (Liu et al. 2019)."""

    column: ClassVar = Column(
        "density", "largest IoU of the object with another one of its class", "density_branch"
    )
    chooser: ClassVar[str] = "kind"
    acts_with: ClassVar = {"sigma": ("gaussian",), "score_threshold": ("gaussian", "linear")}

    method: Literal["adaptive"] = Field(description=METHOD)
    kind: Literal["hard", "gaussian", "linear"] = Field("hard", description=KIND)
    iou_threshold: IouThreshold = 0.5
    sigma: Sigma = 0.5
    score_threshold: ScoreThreshold = 0.001
    metric: Metric = "iou"


class NoSuppression(AnyMethod):
    """The best candidates as they are."""

    method: Literal["none"] = Field(description=METHOD)


Postprocess = Annotated[
    Nms
    | Soft
    | Diou
    | Weighted
    | Wbf
    | Nmw
    | Matrix
    | IouGuided
    | Softer
    | Adaptive
    | NoSuppression,
    Field(discriminator="method"),
]
SECTIONS: dict[str, type[AnyMethod]] = {
    get_args(kind.model_fields["method"].annotation)[0]: kind
    for kind in get_args(get_args(Postprocess)[0])
}
