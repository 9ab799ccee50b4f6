"""The `optim` section: optimiser, learning rate and gradient clipping."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import Pair, Section


class Optim(Section):
    """The optimiser. `lr` holds at `lr_batch` images per step and is scaled by `lr_rule`."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser")
    lr: float = Field(0.01, gt=0, description="Base learning rate, at lr_batch images per step")
    lr_batch: int = Field(
        16, gt=0, description="Images per step (all ranks, accumulation included) that lr is for"
    )
    lr_rule: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="How lr follows the batch; an lr from the command line is used as is"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(False, description="sgd: Nesterov momentum")
    betas: Pair = Field((0.9, 0.999), description="adamw: decay of the two moments")
    weight_decay: float = Field(0.0001, ge=0, description="Weight decay")
    backbone_lr_mult: float = Field(1.0, ge=0, description="Multiple of lr for the backbone")
    sampling_lr_mult: float = Field(
        1.0,
        ge=0,
        description="Multiple of lr for what predicts where deformable attention looks",
    )
    norm_decay: bool = Field(True, description="Weight decay on norm scales and shifts")
    bias_decay: bool = Field(True, description="Weight decay on biases")
    bias_lr_mult: float = Field(1.0, ge=0, description="Multiple of lr for biases")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest L2 norm of the whole gradient; null: not clipped"
    )
    clip_value: float | None = Field(
        None, gt=0, description="Largest absolute value of a gradient entry; null: not clipped"
    )
    acts_with: ClassVar = {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adamw",)}

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.clip_norm is not None and self.clip_value is not None:
            yield (
                "clip_value",
                f"choose one: clip_norm is {self.clip_norm}; set one of them to null",
            )
        if self.nesterov and self.name == "sgd" and self.momentum == 0:
            yield "nesterov", "needs a momentum greater than 0"
        if not all(0 <= beta < 1 for beta in self.betas):
            yield "betas", f"expected two numbers from 0 to below 1, got {list(self.betas)}"
