"""The `schedule` section: how long to train, and the learning rate along the way."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from detcli.recipe.sections.section import Integers, Section

# Length and milestones of the short names (Detectron's, kept by every toolbox since).
SHORT_NAMES = {"1x": (12, (8, 11)), "2x": (24, (16, 22)), "3x": (36, (27, 33))}


class Schedule(Section):
    """Epochs, warm-up and learning-rate schedule."""

    name: Literal["step", "cosine", "cosine_restarts", "plateau"] = Field(
        "step", description="Learning-rate schedule after the warm-up"
    )
    epochs: int | Literal["1x", "2x", "3x"] = Field(
        "1x", description="Number of epochs, or 1x, 2x, 3x for 12, 24, 36"
    )
    milestones: Integers | None = Field(
        None,
        description="step: milestones, epochs after which lr is multiplied by gamma; null: 8, "
        "11 for 1x, 16, 22 for 2x, 27, 33 for 3x, otherwise 2/3 and 11/12 of the "
        "epochs",
    )
    gamma: float = Field(0.1, gt=0, le=1, description="step, plateau: factor of lr at each drop")
    min_lr_ratio: float = Field(
        0.0, ge=0, lt=1, description="cosine, cosine_restarts: minimum lr, as a multiple of lr"
    )
    restarts: int = Field(1, gt=0, description="cosine_restarts: number of cycles of equal length")
    patience: int = Field(3, ge=0, description="plateau: epochs without improvement before a drop")
    monitor: Literal["AP", "loss"] = Field(
        "AP", description="plateau: monitored metric, validation AP or loss (needs train.val_loss)"
    )
    warmup_steps: int = Field(500, ge=0, description="Warm-up length in steps")
    warmup_ratio: float = Field(
        0.001, ge=0, le=1, description="Start of the warm-up, as a multiple of lr"
    )
    warmup: Literal["linear", "constant", "none"] = Field(
        "linear", description="Linear warm-up to lr, constant warm-up at warmup_ratio x lr, or none"
    )
    acts_with: ClassVar = {
        "milestones": ("step",),
        "gamma": ("step", "plateau"),
        "min_lr_ratio": ("cosine", "cosine_restarts"),
        "restarts": ("cosine_restarts",),
        "patience": ("plateau",),
        "monitor": ("plateau",),
    }

    @field_validator("epochs", mode="wrap")
    @classmethod
    def _one_message(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            epochs = check(value)
        except ValueError:
            epochs = 0
        if isinstance(epochs, int) and epochs < 1:
            raise PydanticCustomError(
                "epochs", "Input should be a whole number greater than 0, or 1x, 2x or 3x"
            )
        return epochs

    @property
    def num_epochs(self) -> int:
        """Epochs as a number."""
        return self.epochs if isinstance(self.epochs, int) else SHORT_NAMES[self.epochs][0]

    @property
    def milestone_epochs(self) -> tuple[int, ...]:
        """Epochs after which the step schedule drops."""
        if self.milestones is not None:
            return self.milestones
        if isinstance(self.epochs, str):
            return SHORT_NAMES[self.epochs][1]
        drops = {round(self.epochs * 2 / 3), round(self.epochs * 11 / 12)}
        return tuple(sorted(epoch for epoch in drops if 0 < epoch < self.epochs))

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.milestones is None or self.name != "step":
            return
        listed = list(self.milestones)
        if listed != sorted(set(listed)) or any(epoch < 1 for epoch in listed):
            yield "milestones", f"expected rising epochs from 1 on, got {listed}"
        if listed and max(listed) >= self.num_epochs:
            yield (
                "milestones",
                f"expected epochs below schedule.epochs ({self.num_epochs}), got {listed}",
            )

    def recipe_problems(self, recipe: Any, key: str) -> Iterator[tuple[str, str]]:
        if self.name != "plateau":
            return
        if self.monitor == "loss" and not recipe.train.val_loss:
            yield f"{key}.monitor", "loss is only measured with train.val_loss: true"
        if self.monitor == "AP" and recipe.train.eval_every == 0:
            yield f"{key}.monitor", "AP is only measured with train.eval_every of 1 or more"
