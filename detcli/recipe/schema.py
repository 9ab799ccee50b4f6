"""The whole recipe."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from detcli.recipe.sections.data import Data
from detcli.recipe.sections.models.detr import LEARNED_CELLS
from detcli.recipe.sections.models.table import Model
from detcli.recipe.sections.optim import Optim
from detcli.recipe.sections.postprocess import Nms, Postprocess
from detcli.recipe.sections.run import Eval, Train
from detcli.recipe.sections.schedule import Schedule
from detcli.recipe.sections.section import Section

PYRAMIDS = ("fpn", "pan", "bifpn", "unet_pp")  # necks whose norms are a choice
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Expected(Section):
    """Accuracy that somebody reached with these settings."""

    source: str = Field(min_length=1, description="Who published or noted the figures")
    AP: float | None = Field(None, ge=0, le=1, description="COCO box AP, IoU 0.50 to 0.95")
    AP50: float | None = Field(None, ge=0, le=1, description="AP at IoU 0.50")
    AP75: float | None = Field(None, ge=0, le=1, description="AP at IoU 0.75")
    APs: float | None = Field(None, ge=0, le=1, description="AP of objects below 32^2 pixels")
    APm: float | None = Field(None, ge=0, le=1, description="AP of objects from 32^2 to 96^2")
    APl: float | None = Field(None, ge=0, le=1, description="AP of objects above 96^2 pixels")
    note: str | None = Field(None, description="Memory, speed, and other circumstances")


class Recipe(Section):
    """Everything that defines a training run but the machine it runs on."""

    name: str = Field(pattern=NAME_PATTERN, description="Equals the file name; names run folders")
    about: str = Field(min_length=1, description="What this recipe trains, in a paragraph")
    expected: Annotated[tuple[Expected, ...], Field(strict=False)] = Field(
        (), description="Published or noted figures, each with its source"
    )
    data: Data = Field(description="Images, labels and the loader")
    model: Model = Field(description="The detector")
    optim: Optim = Field(Optim(), description="Optimiser, learning rate, clipping")
    schedule: Schedule = Field(Schedule(), description="Length and course of the learning rate")
    train: Train = Field(Train(), description="The training loop")
    postprocess: Postprocess = Field(Nms(), description="From candidates to detections")
    eval: Eval = Field(Eval(), description="Evaluation during and after training")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from self._vgg_problems()
        yield from self._position_problems()
        yield from self._sampling_problems()
        if self.data.format != "shapes" and getattr(self.data, self.eval.split) is None:
            yield "eval.split", f"data.{self.eval.split} is not set"
        if self.data.format == "shapes" and self.eval.split == "test":
            yield "eval.split", "format shapes has only train and val"
        yield from self._column_problems()
        yield from self._swa_problems()
        if getattr(getattr(self.model, "head", None), "norm", None) == "bn":
            yield from self._batch_norm_problems()
        yield from self._rep_problems()
        yield from self._neck_problems()
        if self.schedule.name != "plateau":
            return
        if self.schedule.monitor == "loss" and not self.train.val_loss:
            yield "schedule.monitor", "loss is only measured with train.val_loss: true"
        if self.schedule.monitor == "AP" and self.train.eval_every == 0:
            yield "schedule.monitor", "AP is only measured with train.eval_every of 1 or more"

    def _column_problems(self) -> Iterator[tuple[str, str]]:
        method, column = self.postprocess.method, self.postprocess.column
        if column is not None and not column.is_written_by(self.model):
            yield (
                "postprocess.method",
                f"{method} needs the column {column.name} ({column.meaning}): set {column.setting}",
            )

    def _vgg_problems(self) -> Iterator[tuple[str, str]]:
        backbone = self.model.backbone
        if backbone.name != "vgg16" or backbone.weights != "imagenet":
            return
        if set(self.data.std) != {1.0}:
            yield (
                "data.std",
                "these VGG-16 weights are for images of 0 to 255 less their mean: expected "
                f"[1.0, 1.0, 1.0], got {list(self.data.std)}",
            )

    def _position_problems(self) -> Iterator[tuple[str, str]]:
        if getattr(self.model, "positions", None) != "learned":
            return
        stride = 32 if getattr(self.model.backbone, "last_map", "c5") == "c5" else 16
        resize = self.data.resize
        side = resize.long if resize.keep_aspect else max(resize.short)
        if math.ceil(side / stride) > LEARNED_CELLS:
            yield (
                "model.positions",
                f"learned has codes for {LEARNED_CELLS} cells of {stride} pixels a side; images "
                f"have up to {side} pixels; take sine, or a smaller data.resize.long",
            )

    def _sampling_problems(self) -> Iterator[tuple[str, str]]:
        if self.optim.sampling_lr_mult != 1 and self.model.name != "deformable_detr":
            yield (
                "optim.sampling_lr_mult",
                f"acts only with model.name deformable_detr, not {self.model.name}; remove it",
            )

    def _swa_problems(self) -> Iterator[tuple[str, str]]:
        swa, epochs = self.train.swa, self.schedule.num_epochs
        if swa is None:
            return
        left = epochs - swa.first_epoch(epochs)
        if left % swa.every or left // swa.every < 2:
            yield (
                "train.swa.every",
                f"after epoch {epochs - left} of {epochs} there are {left} epochs: expected "
                f"2 or more times {swa.every}, so that there are models to average; change start",
            )

    def _batch_norm_problems(self) -> Iterator[tuple[str, str]]:
        if self.data.batch_per_rank == 1:
            yield (
                "model.head.norm",
                "bn takes its statistics from the images of a rank, but data.batch_per_rank is 1; "
                "take gn, or sync_bn on several ranks",
            )

    def _rep_problems(self) -> Iterator[tuple[str, str]]:
        for part in ("neck", "head"):
            kind = getattr(getattr(self.model, part, None), "conv", None)
            if kind == "rep" and self.data.batch_per_rank == 1:
                yield (
                    f"model.{part}.conv",
                    "rep has batch norms, which need several images per rank, but "
                    "data.batch_per_rank is 1",
                )

    def _neck_problems(self) -> Iterator[tuple[str, str]]:
        neck = getattr(self.model, "neck", None)
        fused = {"model.neck.norm": neck, "model.neck.aspp.norm": getattr(neck, "aspp", None)}
        for key, section in fused.items():
            known = section is not None and getattr(neck, "name", "") in PYRAMIDS
            if known and getattr(section, "norm", "") == "bn" and self.data.batch_per_rank == 1:
                yield (
                    key,
                    "bn takes its statistics from the images of a rank, but data.batch_per_rank "
                    "is 1; take gn, or sync_bn on several ranks",
                )
        if getattr(neck, "deep_supervision", False) and self.train.distill is not None:
            yield (
                "model.neck.deep_supervision",
                "gives several pyramids of each image, a teacher one: expected false with "
                "train.distill",
            )


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "detcli recipe",
        **{key: value for key, value in Recipe.model_json_schema().items() if key != "title"},
    }
