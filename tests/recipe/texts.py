"""Recipes for tests: the smallest valid text, and how to load and break one."""

from __future__ import annotations

from pathlib import Path

import pytest

from detcli.errors import RecipeError
from detcli.recipe import LoadedRecipe, load_recipe

MINIMAL = """\
name: small
about: A recipe for a test.
data: {format: shapes, root: data/shapes, shapes: {variant: plain}}
model:
  name: retinanet
  anchors: {base_scale: 3.0}
  assigner: {name: max_iou, positive_iou: 0.6}
optim:
  lr: 0.02
schedule: {milestones: [3], gamma: 0.5}
"""


def load(folder: Path, text: str, *overrides: str, tricks: tuple[str, ...] = ()) -> LoadedRecipe:
    """Resolve a recipe of this text."""
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, tricks)


def lines_of(folder: Path, text: str, *overrides: str, tricks: tuple[str, ...] = ()) -> list[str]:
    """The error lines of a recipe, without the folder."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides, tricks=tricks)
    return str(caught.value).replace(f"{folder}/", "").splitlines()
