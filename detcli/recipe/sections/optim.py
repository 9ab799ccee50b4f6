"""The `optim` section: optimiser, learning rate and gradient clipping."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detcli.recipe.sections.section import Pair, Section, rule


class Optim(Section):
    """Optimiser. `lr` is for a batch size of `lr_batch` and is scaled by `lr_rule`."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser")
    lr: float = Field(0.01, gt=0, description="Base learning rate, at a batch size of lr_batch")
    lr_batch: int = Field(
        16, gt=0, description="Batch size of lr (all ranks, gradient accumulation included)"
    )
    lr_rule: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="Scaling of lr with the batch size; a command-line lr is not scaled"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(False, description="sgd: Nesterov momentum")
    betas: Annotated[
        Pair, rule(lambda betas: all(0 <= b < 1 for b in betas), "two numbers from 0 to below 1")
    ] = Field((0.9, 0.999), description="adamw: decay rates of the two moments")
    weight_decay: float = Field(0.0001, ge=0, description="Weight decay")
    backbone_lr_mult: float = Field(1.0, ge=0, description="Multiple of lr for the backbone")
    sampling_lr_mult: float = Field(
        1.0, ge=0, description="Learning-rate multiplier of sampling offsets and reference points"
    )
    norm_decay: bool = Field(True, description="Apply weight decay to normalisation layers")
    bias_decay: bool = Field(True, description="Apply weight decay to biases")
    bias_lr_mult: float = Field(1.0, ge=0, description="Learning-rate multiplier of biases")
    clip_norm: float | None = Field(
        None, gt=0, description="Gradient clipping by total L2 norm; null: off"
    )
    clip_value: float | None = Field(
        None, gt=0, description="Gradient clipping by value (each entry); null: off"
    )
    acts_with: ClassVar = {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adamw",)}

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.clip_norm is not None and self.clip_value is not None:
            reason = f"choose one: clip_norm is {self.clip_norm}"
            yield "clip_value", f"{reason}; set one of them to null"
        if self.nesterov and self.name == "sgd" and self.momentum == 0:
            yield "nesterov", "needs a momentum greater than 0"
