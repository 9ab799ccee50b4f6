"""The sections `train` and `eval`."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import Section


class Ema(Section):
    """Moving average of the weights; evaluation and best.pt use it."""

    decay: float = Field(0.9998, gt=0, lt=1, description="Decay per step after the warm-up")
    warmup_steps: int = Field(
        2000, gt=0, description="The decay at step t is decay x (1 - exp(-t / warmup_steps))"
    )


class Swa(Section):
    """The mean of the weights of the last epochs (Izmailov et al. 2018; for detectors Zhang et al.
    2020); evaluation and checkpoints use it."""

    chooser: ClassVar[str] = "course"
    acts_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"min_lr_ratio": ("cyclic",)}

    start: float = Field(
        0.75, ge=0, lt=1, description="Share of the epochs after which averaging begins"
    )
    every: int = Field(1, gt=0, description="Epochs from one averaged model to the next; a cycle")
    course: Literal["constant", "cyclic"] = Field(
        "constant", description="Learning rate while averaging; cyclic: falls in every cycle"
    )
    lr_ratio: float = Field(
        0.5, gt=0, description="That rate, or the highest of a cycle, as a multiple of lr"
    )
    min_lr_ratio: float = Field(
        0.01, ge=0, description="cyclic: the lowest rate of a cycle, as a multiple of lr"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.course == "cyclic" and self.min_lr_ratio >= self.lr_ratio:
            yield "min_lr_ratio", f"expected below lr_ratio ({self.lr_ratio})"

    def first_epoch(self, epochs: int) -> int:
        """Epochs trained before averaging begins, of this many."""
        return round(self.start * epochs)


class Distill(Section):
    """Learn from a trained detector, the teacher, besides the objects."""

    teacher: str = Field(min_length=1, description="Run folder or checkpoint of the teacher")
    logits_weight: float = Field(
        1.0, ge=0, description="Class scores (Yang et al. 2023, BCKD): multiple of the loss; 0: off"
    )
    temperature: float = Field(
        1.0, gt=0, description="Both class logits are divided by this; the loss grows by its square"
    )
    feature_weight: float = Field(
        3.0, ge=0, description="Neck maps on objects (Guo et al. 2021, DeFeat): multiple; 0: off"
    )
    background_weight: float = Field(
        12.0, ge=0, description="Neck maps off objects (DeFeat): multiple of the loss; 0: off"
    )

    @property
    def imitates_maps(self) -> bool:
        """Whether any term compares the maps of the necks."""
        return self.feature_weight > 0 or self.background_weight > 0

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.logits_weight and not self.imitates_maps:
            yield "logits_weight", "all three weights are 0: nothing would be learned"
        if not self.logits_weight and self.temperature != 1:
            yield "temperature", "acts only with a logits_weight above 0; remove it"


class Train(Section):
    """The training loop."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order, augmentation")
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="Precision of autocast")
    channels_last: bool = Field(False, description="Memory format of images and convolutions")
    accumulate: int = Field(1, gt=0, description="Batches per optimiser step")
    ema: Ema | None = Field(None, description="Moving average of the weights; null: off")
    swa: Swa | None = Field(None, description="Mean of the weights of the last epochs; null: off")
    distill: Distill | None = Field(None, description="Learn from a teacher; null: off")
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
        "auto", description="auto: on only where the input shapes are fixed"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ema is not None and self.swa is not None:
            yield "swa", "ema is set too, and only one average can be evaluated: set one to null"
        if self.compile and self.distill is not None and self.distill.imitates_maps:
            yield (
                "compile",
                "distill compares the neck's maps, which a compiled forward does not give out: "
                "set distill.feature_weight and distill.background_weight to 0, or compile: false",
            )


class Eval(Section):
    """Evaluation during and after training."""

    metric: Literal["coco"] = Field("coco", description="COCO's twelve numbers")
    batch_per_rank: int = Field(1, gt=0, description="Images per process and step")
    split: Literal["train", "val", "test"] = Field("val", description="The split to evaluate")
