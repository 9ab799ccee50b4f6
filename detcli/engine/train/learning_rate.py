"""From the recipe's learning rate to the one that is used, with the sentence that says why.

No torch here: `lr-scale` answers without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass

from detcli.engine.lr_scale.rules import lr_expression, scaled_lr


@dataclass(frozen=True)
class LearningRate:
    """The effective learning rate and how it came about."""

    lr: float
    base_lr: float
    base_batch: int
    batch: int
    rule: str
    explicit: bool
    sentence: str


def effective_learning_rate(
    *,
    lr: float,
    lr_batch: int,
    lr_rule: str,
    batch_per_rank: int,
    world_size: int,
    accumulate: int,
    explicit: bool,
) -> LearningRate:
    """Scale `lr`, which holds at `lr_batch` images per step, to the batch of this run by the rule
    of `scaled_lr`. A value typed on the command line (`explicit`) is final."""
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
    return LearningRate(used, lr, lr_batch, batch, lr_rule, explicit, sentence)
