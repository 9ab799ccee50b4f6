"""From the recipe's learning rate to the one that is used, with the sentence that says why.

No torch here: `lr-scale` answers without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass

from detcli.engine.lr_scale.rules import lr_expression, scaled_lr
from detcli.recipe.sections.optim import Optim


@dataclass(frozen=True)
class LearningRate:
    """The effective learning rate and how it came about."""

    lr: float
    batch: int  # images per step
    explicit: bool
    sentence: str


def effective_learning_rate(
    optim: Optim, *, batch_per_rank: int, world_size: int, accumulate: int, explicit: bool
) -> LearningRate:
    """Scale the recipe's rate to the batch of this run by the rule of `scaled_lr`. A value typed on
    the command line (`explicit`) is final."""
    lr, lr_batch, lr_rule = optim.lr, optim.lr_batch, optim.lr_rule
    batch = batch_per_rank * world_size * accumulate
    used = lr if explicit else scaled_lr(lr, lr_batch, batch, lr_rule)
    if explicit:
        why = "given on the command line, used as it is"
    elif lr_rule == "none":
        why = "lr_rule none"
    elif batch == lr_batch:
        why = "the batch is the base batch"
    else:
        why = f"{lr_rule} rule: {lr_expression(lr, lr_batch, batch, lr_rule)}"
    parts = f"{batch_per_rank} per rank x {world_size} ranks x {accumulate} accumulated"
    sentence = (
        f"learning rate {used:g} ({why}); base lr {lr:g} at {lr_batch} images per step, "
        f"this run {batch} images per step ({parts})"
    )
    return LearningRate(used, batch, explicit, sentence)
