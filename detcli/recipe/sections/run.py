"""The sections `train` and `eval`."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import Section


class Ema(Section):
    """Exponential moving average (EMA) of the weights; evaluation and best.pt use it."""

    decay: float = Field(0.9998, gt=0, lt=1, description="EMA decay per step after the warm-up")
    warmup_steps: int = Field(
        2000, gt=0, description="The decay at step t is decay x (1 - exp(-t / warmup_steps))"
    )


class Swa(Section):
    """Stochastic weight averaging over the last epochs (Izmailov et al. 2018; for detectors Zhang
    et al. 2020); evaluation and checkpoints use it."""

    chooser: ClassVar[str] = "course"
    acts_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"min_lr_ratio": ("cyclic",)}

    start: float = Field(
        0.75, ge=0, lt=1, description="Fraction of the epochs after which averaging starts"
    )
    every: int = Field(1, gt=0, description="Epochs between averaged models (cycle length)")
    course: Literal["constant", "cyclic"] = Field(
        "constant", description="SWA learning rate: constant, or cyclic (falls in every cycle)"
    )
    lr_ratio: float = Field(
        0.5, gt=0, description="SWA learning rate, or the highest of a cycle, as a multiple of lr"
    )
    min_lr_ratio: float = Field(
        0.01, ge=0, description="cyclic: lowest learning rate of a cycle, as a multiple of lr"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.course == "cyclic" and self.min_lr_ratio >= self.lr_ratio:
            yield "min_lr_ratio", f"expected below lr_ratio ({self.lr_ratio})"

    def first_epoch(self, epochs: int) -> int:
        """Epochs trained before averaging begins, of this many."""
        return round(self.start * epochs)

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        epochs = recipe.schedule.num_epochs
        left = epochs - self.first_epoch(epochs)
        if left % self.every or left // self.every < 2:
            yield (
                f"{key}.every",
                f"after epoch {epochs - left} of {epochs} there are {left} epochs: expected "
                f"2 or more times {self.every}, so that there are models to average; change start",
            )


class Distill(Section):
    """Knowledge distillation from a trained detector, the teacher."""

    teacher: str = Field(min_length=1, description="Run folder or checkpoint of the teacher")
    logits_weight: float = Field(
        1.0, ge=0, description="Class score distillation (BCKD, Yang et al. 2023): weight; 0: off"
    )
    temperature: float = Field(
        1.0, gt=0, description="Temperature of both class logits; the loss grows by its square"
    )
    feature_weight: float = Field(
        3.0, ge=0, description="Feature distillation on objects (DeFeat, Guo et al. 2021); 0: off"
    )
    background_weight: float = Field(
        12.0, ge=0, description="Feature distillation on background (DeFeat); 0: off"
    )

    @property
    def imitates_maps(self) -> bool:
        """Whether any term compares the maps of the necks."""
        return self.feature_weight > 0 or self.background_weight > 0

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.logits_weight and not self.imitates_maps:
            yield "logits_weight", "all three weights are 0: set one above 0, or distill: null"
        if not self.logits_weight and self.temperature != 1:
            yield "temperature", "acts only with a logits_weight above 0; remove it"


class Train(Section):
    """Training loop."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order, augmentation")
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="Mixed precision (autocast)")
    channels_last: bool = Field(False, description="channels_last memory format")
    accumulate: int = Field(1, gt=0, description="Gradient accumulation: batches per step")
    ema: Ema | None = Field(None, description="Exponential moving average (EMA); null: off")
    swa: Swa | None = Field(None, description="Stochastic weight averaging; null: off")
    distill: Distill | None = Field(None, description="Knowledge distillation; null: off")
    compile: bool = Field(
        False, description="torch.compile of the forward pass in training; needs a C++ compiler"
    )
    val_loss: bool = Field(False, description="Also compute the losses on the validation split")
    eval_every: int = Field(1, ge=0, description="Epochs between evaluations; 0: only at the end")
    log_every: int = Field(50, gt=0, description="Steps between log lines")
    save_every: int | None = Field(
        None, gt=0, description="Steps between extra checkpoints inside an epoch; null: none"
    )
    cudnn_benchmark: Literal["auto", "on", "off"] = Field(
        "auto", description="cudnn.benchmark; auto: on only if the input shapes are fixed"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ema is not None and self.swa is not None:
            yield "swa", "ema is set too, and only one average can be evaluated: set one to null"
        if self.compile and self.distill is not None and self.distill.imitates_maps:
            yield (
                "compile",
                "distill compares neck feature maps, which a compiled forward does not return: "
                "set distill.feature_weight and distill.background_weight to 0, or compile: false",
            )


class Eval(Section):
    """Evaluation during and after training."""

    metric: Literal["coco"] = Field("coco", description="The twelve COCO metrics")
    batch_per_rank: int = Field(1, gt=0, description="Evaluation batch size per GPU (rank)")
    split: Literal["train", "val", "test"] = Field("val", description="The split to evaluate")

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        if recipe.data.format != "shapes" and getattr(recipe.data, self.split) is None:
            yield f"{key}.split", f"data.{self.split} is not set"
        if recipe.data.format == "shapes" and self.split == "test":
            yield f"{key}.split", "format shapes has only train and val"
