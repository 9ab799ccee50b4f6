"""A recipe rewritten for another batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcli.engine.lr_scale.rules import Scaled
from detcli.errors import UsageError

if TYPE_CHECKING:
    from detcli.recipe import LoadedRecipe, Recipe


def rescaled(loaded: LoadedRecipe, scaled: Scaled) -> Recipe:
    """The recipe with everything at the new batch size; where a setting has changed, without the
    figures that others reached. Raises RecipeError."""
    from detcli.recipe import diff_recipes, override_recipe

    base, step = scaled.base, scaled.step
    settings: dict[str, Any] = {
        "optim.name": base.optimizer,
        "optim.lr": scaled.lr,
        "optim.lr_batch": step.images,
        "optim.lr_rule": base.rule,
        "data.batch_per_rank": step.imgs_per_gpu,
        "train.accumulate": step.accumulate,
    }
    settings |= {each.key: each.value for each in scaled.adjustments if each.value != each.base}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    recipe = override_recipe(loaded.recipe, overrides, str(loaded.source))
    if diff_recipes(loaded.recipe, recipe):
        return override_recipe(recipe, ["expected=[]"], str(loaded.source))
    return recipe


def check_target(path: Path, force: bool) -> None:
    """Refuse a file that must not be written. Raises UsageError."""
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--write {path}: expected a file that ends in .yaml")
    if path.exists() and not force:
        raise UsageError(
            f"--write {path}: already exists; choose another name, or overwrite it with --force"
        )


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe under the name of its file. Raises RecipeError, UsageError."""
    from detcli.recipe import dump_yaml, override_recipe

    named = override_recipe(recipe, [f"name={path.stem!r}"], str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_yaml(named), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--write {path}: cannot be written: {error.strerror}") from error
