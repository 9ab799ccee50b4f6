"""The whole recipe."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from detcli.recipe.sections.data import Data
from detcli.recipe.sections.models.table import Model
from detcli.recipe.sections.optim import Optim
from detcli.recipe.sections.postprocess import Nms, Postprocess
from detcli.recipe.sections.run import Eval, Train
from detcli.recipe.sections.schedule import Schedule
from detcli.recipe.sections.section import Section, variants, walk

BATCH_NORMS = {
    "bn": "takes its statistics from the images of a rank, but data.batch_per_rank is 1; use gn, "
    "or sync_bn on several ranks",
    "rep": "has batch norms, which need several images per rank, but data.batch_per_rank is 1",
}
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Expected(Section):
    """Accuracy reported with these settings."""

    source: str = Field(min_length=1, description="Publication or run that reports the figures")
    AP: float | None = Field(None, ge=0, le=1, description="COCO box AP, IoU 0.50 to 0.95")
    AP50: float | None = Field(None, ge=0, le=1, description="AP at IoU 0.50")
    AP75: float | None = Field(None, ge=0, le=1, description="AP at IoU 0.75")
    APs: float | None = Field(None, ge=0, le=1, description="AP of objects below 32^2 pixels")
    APm: float | None = Field(None, ge=0, le=1, description="AP of objects from 32^2 to 96^2")
    APl: float | None = Field(None, ge=0, le=1, description="AP of objects above 96^2 pixels")
    note: str | None = Field(None, description="Memory, speed and other remarks")


class Recipe(Section):
    """Everything that defines a training run except the machine."""

    name: str = Field(pattern=NAME_PATTERN, description="Equals the file name; names run folders")
    about: str = Field(min_length=1, description="Description of the recipe, one paragraph")
    expected: Annotated[tuple[Expected, ...], Field(strict=False)] = Field(
        (), description="Expected metrics, each with its source"
    )
    data: Data = Field(description="Data set, preprocessing, augmentation, data loader")
    model: Model = Field(description="Detector: backbone, neck, heads and losses")
    optim: Optim = Field(Optim(), description="Optimiser, learning rate, gradient clipping")
    schedule: Schedule = Field(Schedule(), description="Epochs, learning-rate schedule and warm-up")
    train: Train = Field(Train(), description="Training loop: seed, mixed precision, EMA, logging")
    postprocess: Postprocess = Field(Nms(), description="Post-processing: NMS, box fusion")
    eval: Eval = Field(Eval(), description="Evaluation during and after training")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from self._enabled_problems()
        for key, section in walk(self):
            yield from section.recipe_problems(self, key)
            for name in section.batch_norms if self.data.batch_per_rank == 1 else ():
                if (kind := getattr(section, name)) in BATCH_NORMS:
                    yield f"{key}.{name}", f"{kind} {BATCH_NORMS[kind]}"
        yield from self._column_problems()

    def _enabled_problems(self) -> Iterator[tuple[str, str]]:
        """Keys of other sections that only some models have a use for."""
        models = variants(type(self).model_fields["model"])
        for key in sorted({key for model in models.values() for key in model.enables}):
            outer, name = key.split(".")
            if getattr(self, outer).is_changed(name) and key not in self.model.enables:
                names = " or ".join(name for name, model in models.items() if key in model.enables)
                yield key, f"acts only with model.name {names}, not {self.model.name}; remove it"

    def _column_problems(self) -> Iterator[tuple[str, str]]:
        method, column = self.postprocess.method, self.postprocess.column
        if column is not None and not column.is_written_by(self.model):
            yield (
                "postprocess.method",
                f"{method} needs the column {column.name} ({column.meaning}): set {column.setting}",
            )


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "detcli recipe",
        **{key: value for key, value in Recipe.model_json_schema().items() if key != "title"},
    }
