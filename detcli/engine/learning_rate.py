"""From the recipe's learning rate to the one that is used, with the sentence that says why.

No torch here: `lr-scale` answers without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """Scale `lr`, which holds at `lr_batch` images per step, to the batch of this run.

    linear: lr x batch / lr_batch (Goyal et al. 2017, and note 001); sqrt: lr x sqrt of the same
    ratio (Krizhevsky 2014); none: lr. A value typed on the command line (`explicit`) is final.
    """
    batch = batch_per_rank * world_size * accumulate
    ratio = batch / lr_batch
    if explicit:
        used, why = lr, "given on the command line, used as it is"
    elif lr_rule == "none" or batch == lr_batch:
        used = lr
        why = "lr_rule none" if lr_rule == "none" else "the batch is the base batch"
    elif lr_rule == "linear":
        used, why = lr * ratio, f"linear rule: {lr:g} x {batch} / {lr_batch}"
    else:
        used, why = lr * ratio**0.5, f"sqrt rule: {lr:g} x sqrt({batch} / {lr_batch})"
    parts = f"{batch_per_rank} per rank x {world_size} ranks x {accumulate} accumulated"
    sentence = (
        f"learning rate {used:g} ({why}); base lr {lr:g} at {lr_batch} images per step, "
        f"this run {batch} images per step ({parts})"
    )
    return LearningRate(used, lr, lr_batch, batch, lr_rule, explicit, sentence)
