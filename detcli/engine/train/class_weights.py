"""Weights of classes in the class loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from detcli.data.records import Records
from detcli.errors import UsageError
from detcli.recipe import Recipe
from detcli.recipe.sections.losses import ClassLoss

if TYPE_CHECKING:
    from detcli.types import FloatArray, IntArray


CLASS_WEIGHTS = "model.class_loss.class_weights"


def decide_class_weights(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> tuple[float, ...] | None:
    """The weight of each class in the class loss, with a mean of 1 over the training objects, or
    None where the recipe asks for none.

    must_act: raise UsageError where all objects come out with the same weight. Raises UsageError
    for names that are no classes of the data.
    """
    loss = getattr(recipe.model, "class_loss", None)
    if not isinstance(loss, ClassLoss) or loss.class_weights is None:
        return None
    counts = np.bincount(records.labels[records.learned], minlength=records.num_classes)
    if isinstance(loss.class_weights, str):
        weights = balanced_weights(counts, loss.class_weights, loss.class_beta)
    else:
        weights = _weights_by_name(loss.class_weights, records.class_names, counts)
    present = counts > 0
    if must_act and (not present.any() or np.ptp(weights[present]) <= 1e-6):
        raise UsageError(
            f"{CLASS_WEIGHTS} cannot act: all training objects have the same weight "
            f"({present.sum()} of {len(counts)} classes have objects); set it to null"
        )
    shown = ", ".join(
        f"{name} {weight:.3g} ({count} objects)"
        for name, weight, count in zip(records.class_names, weights, counts, strict=True)
        if count
    )
    say(f"class weights, mean 1 over the objects: {shown}")
    missing = [name for name, count in zip(records.class_names, counts, strict=True) if not count]
    if missing:
        say(f"class weights: no training objects of {', '.join(missing)}; weight 1")
    return tuple(weights.tolist())


def balanced_weights(counts: IntArray, method: str, beta: float) -> FloatArray:
    """(C,) weights of classes with `counts` (C,) objects, whose mean over the objects is 1.

    inverse: 1 / n. effective: (1 - beta) / (1 - beta^n), one over the effective number of objects
    (Cui et al. 2019, arXiv 1901.05555, equation 2). 1 for classes without objects.
    """
    number = np.maximum(counts, 1).astype(np.float64)
    if method == "effective":
        number = -np.expm1(number * np.log(beta)) / (1 - beta)
    return _with_mean_one(1 / number, counts)


def _weights_by_name(
    given: Mapping[str, float], names: tuple[str, ...], counts: IntArray
) -> FloatArray:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UsageError(
            f"{CLASS_WEIGHTS}: the data have no class {', '.join(map(repr, unknown))}; "
            f"they have {', '.join(names)}"
        )
    weights = np.array([given.get(name, 1.0) for name in names])
    return _with_mean_one(weights, counts)


def _with_mean_one(weights: FloatArray, counts: IntArray) -> FloatArray:
    """(C,) weights scaled to a mean of 1 over the objects; 1 for classes without any."""
    total = counts.sum()
    mean = (weights * counts).sum() / total if total else 1.0
    return np.asarray(np.where(counts > 0, weights / mean, 1.0))
