"""The sanity check before a long run: can the recipe overfit a handful of images?

Note 004's first advice on training: one or two pictures first, to see that it converges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from detcli.data.records import Records
from detcli.errors import DataError
from detcli.evaluation import match
from detcli.recipe import Recipe, recipe_from_dict
from detcli.types import Detections

GOAL_AP50 = 0.9
STEPS = 400
LOOKS = 8  # evaluations on the way
MOST_NAMED = 5  # objects that a line each is spent on


def overfit_recipe(recipe: Recipe, num_images: int) -> Recipe:
    """The recipe with augmentation, weight decay, dropout, averaging and decay of the rate off,
    long enough for `STEPS` optimiser steps on `num_images` images."""
    values = recipe.model_dump(mode="json")
    data, train = values["data"], values["train"]
    data["augment"] = dict.fromkeys(data["augment"])
    data["resize"]["short"] = [max(data["resize"]["short"])]
    data["resize"]["pick"] = "choice"
    data["batch_per_rank"] = min(data["batch_per_rank"], num_images)
    steps_per_epoch = math.ceil(
        math.ceil(num_images / data["batch_per_rank"]) / train["accumulate"]
    )
    epochs = math.ceil(STEPS / steps_per_epoch)
    values["optim"]["weight_decay"] = 0.0
    if "dropout" in values["model"].get("head", {}):
        values["model"]["head"]["dropout"] = None
    warmup = {key: values["schedule"][key] for key in ("warmup", "warmup_ratio", "warmup_steps")}
    warmup["warmup_steps"] = min(warmup["warmup_steps"], STEPS // 10)
    values["schedule"] = {"name": "step", "epochs": epochs, "milestones": [], **warmup}
    train |= {"ema": None, "swa": None, "distill": None}
    train |= {"eval_every": max(1, epochs // LOOKS), "val_loss": False}
    train["log_every"] = max(1, STEPS // (2 * LOOKS))
    return recipe_from_dict(values, f"{recipe.name} (overfit)")


def first_with_objects(records: Records, num_images: int) -> Records:
    """The first images that have objects. Raises DataError when there are too few."""
    chosen = np.flatnonzero(np.diff(records.offsets) > 0)[:num_images]
    if len(chosen) < num_images:
        raise DataError(f"--overfit {num_images}: only {len(chosen)} training images have objects")
    return records.take(chosen)


def verdict(ap50: float | None) -> str:
    """What the outcome says, and where to look when it is not good."""
    if ap50 is not None and ap50 > GOAL_AP50:
        return f"overfit check passed: AP50 {ap50:.3f} > {GOAL_AP50} on its own training images"
    reached = "no detections" if ap50 is None else f"AP50 {ap50:.3f}"
    return (
        f"overfit check failed: {reached} after {STEPS} steps, expected > {GOAL_AP50}. Look at: "
        "the boxes (are they in pixels of these images?), the learning rate (too low, or so high "
        "that the loss jumps), object sizes against anchors and strides, objects that another one "
        "covers (the assigner may leave them no anchor), running batch-norm statistics "
        "(model.backbone.norm_eval) without pre-trained weights"
    )


def never_found(records: Records, detections: Detections) -> Iterator[str]:
    """The objects that no detection overlaps by an IoU of 0.5: where they are, at most five."""
    truth = records.ground_truth()
    table = match(truth, detections)
    missed = np.setdiff1d(np.flatnonzero(table.object_counts[:, 0]), table.matched_object[:, 0])
    for row in missed[:MOST_NAMED]:
        x, y, width, height = truth.boxes_xywh[row]
        yield (
            f"never found: {truth.class_names[truth.labels[row]]} at x {x:g}, y {y:g}, "
            f"{width:g} x {height:g} pixels in {records.name(int(truth.image_index[row]))}"
        )
    if len(missed) > MOST_NAMED:
        yield f"and {len(missed) - MOST_NAMED} more objects"
