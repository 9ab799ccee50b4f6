"""What a model's settings make of the training objects, said before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detcli.data.records import Records
from detcli.data.transforms.geometry import scaled_size
from detcli.errors import UsageError
from detcli.models.heads.density_branch import object_densities
from detcli.recipe import Recipe
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.types import BoolArray, FloatArray, IntArray

# Augmentations after which an object can be smaller than the resize alone makes it.
SHRINKING = (
    *("chips", "mosaic", "mixup", "auto_augment", "albumentations", "zoom_out"),
    *("center_crop", "resize_crop"),
)
CLASS_WEIGHTS = "model.class_loss.class_weights"


def decide_class_weights(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> tuple[float, ...] | None:
    """The weight of each class in the class loss, with a mean of 1 over the training objects, or
    None where the recipe asks for none.

    must_act: raise UsageError where all objects come out with the same weight. Raises UsageError
    for names that are no classes of the data.
    """
    loss: Any = getattr(recipe.model, "class_loss", None)
    if getattr(loss, "class_weights", None) is None:
        return None
    counts = np.bincount(records.labels[_counted(records)], minlength=records.num_classes)
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


def announce_small_objects(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> None:
    """Say how many training objects the settings for small ones concern.

    must_act: raise UsageError where there are none, unless an augmentation shrinks objects.
    """
    model, augment = recipe.model, recipe.data.augment
    assigner = getattr(model, "assigner", None)
    first_stage = getattr(getattr(model, "rpn", None), "assigner", None)
    settings = {
        "model.enlarge_small": getattr(model, "enlarge_small", None),
        "model.assigner.small": getattr(assigner, "small", None),
        "model.rpn.assigner.small": getattr(first_stage, "small", None),
    }
    shrinking = [name for name in SHRINKING if getattr(augment, name) is not None]
    for key, setting in settings.items():
        if setting is None:
            continue
        sides = input_sides(recipe, records)
        count = int((sides < setting.max_side_px).sum())
        if must_act and not count and not shrinking:
            smallest = f"the smallest has {sides.min():.0f}" if len(sides) else "there are none"
            raise UsageError(
                f"{key} cannot act: no training object is smaller than {setting.max_side_px:g} "
                f"pixels at the network's input ({smallest}; max_side_px); set it to null"
            )
        note = f"; {', '.join(shrinking)} can make more" if shrinking else ""
        say(
            f"{key}: {count} of {len(sides)} training objects are smaller than "
            f"{setting.max_side_px:g} pixels at the smallest input size{note}"
        )


def announce_density(
    recipe: Recipe, records: Records, say: Callable[[str], None], *, must_act: bool
) -> None:
    """Say how crowded the training objects are, where the recipe asks for a predicted density.

    must_act: raise UsageError where none overlaps with another of its class, unless mixup lays
    images on others; what pastes objects looks for a free place.
    """
    if getattr(recipe.model, "density_branch", None) is None:
        return
    densities = object_densities(_targets(records))
    mixes = recipe.data.augment.mixup is not None
    if must_act and not (densities > 0).any() and not mixes:
        raise UsageError(
            "model.density_branch cannot act: none of the "
            f"{len(densities)} training objects overlaps with another of its class; set it to null"
        )
    threshold = recipe.postprocess.iou_threshold
    note = "; mixup can make more" if mixes else ""
    say(
        f"model.density_branch: {int((densities > 0).sum())} of {len(densities)} training objects "
        f"overlap with another of their class, {int((densities > threshold).sum())} of them by "
        f"more than the {threshold:g} of postprocess.iou_threshold{note}"
    )


def _targets(records: Records) -> list[Target]:
    """The learned objects of each image, in pixels of the image."""
    boxes = np.concatenate(
        [records.boxes_xywh[:, :2], records.boxes_xywh[:, :2] + records.boxes_xywh[:, 2:]], axis=1
    )
    counted, nothing = _counted(records), torch.zeros(0, 4)
    targets = []
    for image, (height, width) in enumerate(records.sizes.tolist()):
        rows = np.arange(records.offsets[image], records.offsets[image + 1])
        rows = rows[counted[rows]]
        own, labels = torch.from_numpy(boxes[rows]).float(), torch.from_numpy(records.labels[rows])
        targets.append(Target(own, labels, nothing, (height, width)))
    return targets


def input_sides(recipe: Recipe, records: Records) -> FloatArray:
    """(G',) roots of the areas of the training objects, in pixels of the network input where the
    resize makes images smallest."""
    resize = recipe.data.resize
    short, long = min(resize.short), resize.long if resize.keep_aspect else None
    sizes = [(int(height), int(width)) for height, width in records.sizes]
    scaled = np.array([scaled_size(size, short, long) for size in sizes])
    factors = np.sqrt(scaled.prod(axis=1) / records.sizes.prod(axis=1))
    sides = np.sqrt(records.boxes_xywh[:, 2:].prod(axis=1))
    sides = sides * np.repeat(factors, np.diff(records.offsets))
    return np.asarray(sides[_counted(records)])


def _counted(records: Records) -> BoolArray:
    """(G,) objects that are learned, not ignored."""
    return np.asarray(~(records.crowd | records.difficult))


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
