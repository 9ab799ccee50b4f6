"""What is scaled: the rate that is tuned to a batch size, the batch of a step, and where both come
from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from detcli.data.formats import read
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.recipe import LoadedRecipe
    from detcli.recipe.schema import Recipe
    from detcli.recipe.sections.data import Data
    from detcli.recipe.sections.models.table import Model


class StepBatch(NamedTuple):
    """The images of one optimiser step."""

    gpus: int
    imgs_per_gpu: int
    accumulate: int = 1

    @property
    def images(self) -> int:
        return self.gpus * self.imgs_per_gpu * self.accumulate


class Base(NamedTuple):
    """What is tuned to a batch size, and at which: `lr` holds at `batch` images per step, warm-up
    and averages at `tuned_batch`.

    ema_decay, ema_warmup_steps: None without an average; batch_stats: the batch norm whose
    statistics are those of a training batch (bn, sync_bn), None where there is none or it is not
    known; warmup_steps: 0 without a warm-up; milestones: epochs; clips: gradients are clipped.
    """

    optimizer: str
    lr: float
    batch: int
    rule: str
    tuned_batch: int
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clips: bool = False
    schedule: str = "step"
    epochs: int = 12
    milestones: tuple[int, ...] = (8, 11)
    warmup_steps: int = 500
    ema_decay: float | None = None
    ema_warmup_steps: int | None = None
    batch_stats: str | None = None


# Where no recipe says otherwise. Rates: note 001 for SGD, DETR (Carion et al. 2020, note 004) for
# AdamW; rules: the one that is derived for the optimiser.
COMMON = {
    "sgd": Base("sgd", lr=0.02, batch=16, rule="linear", tuned_batch=16),
    "adamw": Base("adamw", lr=0.0001, batch=16, rule="sqrt", tuned_batch=16),
}


def load(
    recipe: str, overrides: Sequence[str], tricks: Sequence[str], epochs: int | None
) -> LoadedRecipe:
    """The recipe as `train` would resolve it. Raises RecipeError, UsageError."""
    from detcli.recipe import load_recipe

    for argument in overrides:
        if argument.split("=")[0].strip() == "optim.lr":
            raise UsageError(
                f"{argument}: `train` uses such a rate as it is; to scale one from here, "
                f"say --base-lr {argument.partition('=')[2]}"
            )
    length = () if epochs is None else (f"schedule.epochs={epochs}",)
    return load_recipe(recipe, [*overrides, *length], tricks)


def count_images(data: Data) -> int | None:
    """How many images the training split has; None where the data is not here."""
    return read.count_images(
        format=data.format,
        root=data.root,
        split=None if data.train is None else data.train.model_dump(),
        shapes=None if data.shapes is None else data.shapes.model_dump(),
    )


def base_of(recipe: Recipe) -> Base:
    """What a recipe is tuned to."""
    optim, schedule, ema = recipe.optim, recipe.schedule, recipe.train.ema
    return Base(
        optimizer=optim.name,
        lr=optim.lr,
        batch=optim.lr_batch,
        rule=optim.lr_rule,
        tuned_batch=optim.lr_batch,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        clips=optim.clip_norm is not None or optim.clip_value is not None,
        schedule=schedule.name,
        epochs=schedule.num_epochs,
        milestones=schedule.milestone_epochs if schedule.name == "step" else (),
        warmup_steps=0 if schedule.warmup == "none" else schedule.warmup_steps,
        ema_decay=None if ema is None else ema.decay,
        ema_warmup_steps=None if ema is None else ema.warmup_steps,
        batch_stats=_batch_stats(recipe.model),
    )


def _batch_stats(model: Model) -> str | None:
    """The norm of the backbone if it computes statistics of each batch."""
    backbone = model.backbone
    # VGG has no norms, and YOLOv4 one choice for all of its parts
    norm: str | None = getattr(backbone, "norm", getattr(model, "norm", None))
    fixed = getattr(backbone, "norm_eval", False) or getattr(backbone, "frozen_stages", 0) == 4
    return norm if norm in ("bn", "sync_bn") and not fixed else None


def common_base(optimizer: str | None, epochs: int | None) -> Base:
    """What is scaled where there is no recipe: the usual rate of an optimiser, and 12 epochs."""
    base = COMMON[optimizer or "sgd"]
    if epochs is None:
        return base
    from detcli.recipe.sections.schedule import Schedule

    return base._replace(epochs=epochs, milestones=Schedule(epochs=epochs).milestone_epochs)


def choose_base(
    start: Base,
    optimizer: str | None,
    rule: str | None,
    base_lr: float | None,
    base_batch: int | None,
) -> Base:
    """The base with what was typed; another optimiser brings its own usual rate and rule."""
    if optimizer is not None and optimizer != start.optimizer:
        usual = COMMON[optimizer]
        start = start._replace(optimizer=optimizer, lr=usual.lr, batch=usual.batch, rule=usual.rule)
    return start._replace(
        lr=base_lr or start.lr, batch=base_batch or start.batch, rule=rule or start.rule
    )


def choose_step(
    recipe: Recipe | None, gpus: int, imgs_per_gpu: int | None, accumulate: int | None
) -> StepBatch:
    """The batch that was typed, completed by the recipe's."""
    per_gpu, batches = 2, 1
    if recipe is not None:
        per_gpu, batches = recipe.data.batch_per_rank, recipe.train.accumulate
    return StepBatch(gpus, imgs_per_gpu or per_gpu, accumulate or batches)


def choice_warnings(start: Base, base: Base, base_lr: float | None) -> Iterator[str]:
    """What to know about an optimiser that the base was not tuned for."""
    if start.optimizer == base.optimizer:
        return
    if base_lr is None:
        yield (
            f"the base is for {start.optimizer}, and rates do not carry over (note 002): scaled "
            f"is {base.lr:g} at {base.batch} images, usual with {base.optimizer}"
        )
    yield f"weight decay {base.weight_decay:g} is {start.optimizer}'s too: look at it again"
