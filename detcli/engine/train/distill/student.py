"""The detector that learns from a teacher, and whether the two can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detcli.errors import UsageError
from detcli.models.detector import Detector
from detcli.recipe import Recipe
from detcli.types import Target

SOFTMAX = ("softmax", "am_softmax")  # class losses whose scores are no yes or no per class


class OutputsAndMaps(NamedTuple):
    """What a detector makes of images, and the maps (B, D, h, w) of its neck on the way, finest
    first; () where they are not compared."""

    outputs: Any
    maps: tuple[Tensor, ...]


class Student(nn.Module):
    """A detector that also gives its neck's maps, brought to the teacher's widths.

    forward: the detector, or its compiled form; neck: the part of it that makes the maps, None
    where they are not compared; adapters: one 1x1 convolution for each map whose width differs
    from the teacher's. They are trained along and are no part of the detector.
    """

    def __init__(self, detector: nn.Module, adapters: nn.ModuleList, *, gives_maps: bool) -> None:
        super().__init__()
        self.detector = detector
        self.adapters = adapters
        self.gives_maps = gives_maps

    def forward(self, images: Tensor, targets: Sequence[Target]) -> OutputsAndMaps:
        """The detector's outputs, and the maps as its adapters give them."""
        outputs, maps = outputs_and_maps(self.detector, images, targets, maps=self.gives_maps)
        adapted = (adapter(level) for adapter, level in zip(self.adapters, maps, strict=True))
        return OutputsAndMaps(outputs, tuple(adapted))


def outputs_and_maps(
    detector: nn.Module,
    images: Tensor,
    targets: Sequence[Target] | None = None,
    *,
    maps: bool = True,
) -> OutputsAndMaps:
    """The outputs of a detector, and the maps of its neck where `maps`."""
    if not maps:
        return OutputsAndMaps(detector(images, targets), ())
    found: list[tuple[Tensor, ...]] = []
    neck = detector.get_submodule("neck")
    # A hook only while it is needed: one that stays would be copied with the detector.
    handle = neck.register_forward_hook(lambda module, inputs, levels: found.append(levels))
    try:
        outputs = detector(images, targets)
    finally:
        handle.remove()
    return OutputsAndMaps(outputs, tuple(found[0]))


class Shapes(NamedTuple):
    """What a detector gives for a blank image: logits, maps: (channels, h, w) of each level; None
    where it has no such outputs."""

    logits: list[tuple[int, ...]] | None
    maps: list[tuple[int, ...]] | None


@torch.no_grad()
def shapes_of(detector: Detector, side_px: int, device: torch.device) -> Shapes:
    """The shapes of class logits and neck maps for a square image; the detector is left as it
    was."""
    was_training = detector.training
    detector.eval()
    has_neck = hasattr(detector, "neck")
    blank = torch.zeros(1, 3, side_px, side_px, device=device)
    outputs, maps = outputs_and_maps(detector, blank, maps=has_neck)
    detector.train(was_training)
    logits = getattr(outputs, "class_logits", None)
    per_cell = isinstance(logits, tuple) and all(level.dim() == 4 for level in logits)
    return Shapes(
        [tuple(level.shape[1:]) for level in logits or ()] if per_cell else None,
        [tuple(level.shape[1:]) for level in maps] if has_neck else None,
    )


def build_student(
    forward: nn.Module,
    detector: Detector,
    recipe: Recipe,
    teacher: Detector,
    teacher_recipe: Recipe,
    device: torch.device,
) -> Student:
    """The student of a recipe; `forward` is the detector or its compiled form.

    Raises UsageError for a teacher that cannot be compared with it as the recipe asks.
    """
    settings = recipe.train.distill
    assert settings is not None, "a student is built from the distill section"
    side_px = recipe.data.padded(max(recipe.data.resize.short))
    mine, theirs = (shapes_of(network, side_px, device) for network in (detector, teacher))
    names = f"{teacher_recipe.model.name} (teacher) and {recipe.model.name}"
    if settings.logits_weight:
        check_logits(mine, theirs, names, (recipe, teacher_recipe))
    if not settings.imitates_maps:
        return Student(forward, nn.ModuleList(), gives_maps=False)
    if mine.maps is None or theirs.maps is None or _cells(mine.maps) != _cells(theirs.maps):
        raise UsageError(
            f"train.distill: the neck feature maps of {names} cannot be compared: of "
            f"{side_px} px they make {_sides(theirs.maps)} and {_sides(mine.maps)} cells; choose a "
            "teacher with the same levels, or set feature_weight and background_weight to 0"
        )
    pairs = [(own[0], other[0]) for own, other in zip(mine.maps, theirs.maps, strict=True)]
    adapters = [nn.Identity() if own == other else nn.Conv2d(own, other, 1) for own, other in pairs]
    return Student(forward, nn.ModuleList(adapters).to(device), gives_maps=True)


def check_logits(mine: Shapes, theirs: Shapes, names: str, recipes: tuple[Recipe, Recipe]) -> None:
    """Raise UsageError unless the class logits are sigmoids of the same anchors."""
    reason = None
    if mine.logits is None or theirs.logits is None:
        reason = "not both have a class score for every cell"
    elif any(_class_loss(recipe) in SOFTMAX for recipe in recipes):
        reason = "not both are sigmoids"
    elif mine.logits != theirs.logits:
        reason = ", ".join(
            f"{shapes[0][0]} channels on {_sides(shapes)} cells"
            for shapes in (theirs.logits, mine.logits)
        )
    if reason is not None:
        raise UsageError(
            f"train.distill.logits_weight: the class logits of {names} cannot be compared: "
            f"{reason}; choose a teacher with the same head, or set it to 0 to distil features only"
        )


def _class_loss(recipe: Recipe) -> str | None:
    return getattr(getattr(recipe.model, "class_loss", None), "name", None)


def _cells(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [shape[1:] for shape in shapes]


def _sides(shapes: list[tuple[int, ...]] | None) -> str:
    return "no" if shapes is None else "/".join(str(shape[-1]) for shape in shapes)
