"""Read, resolve, write and compare recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from detcli.errors import RecipeError
from detcli.recipe.explain import explain
from detcli.recipe.files import find_recipe, shipped_recipes
from detcli.recipe.layers import Layers, parse_override
from detcli.recipe.reading import Dumper, read_file, read_text
from detcli.recipe.schema import Recipe
from detcli.recipe.sections.postprocess import SECTIONS
from detcli.recipe.sections.section import flatten, plain
from detcli.recipe.tricks import check_choice, check_early, check_needs, read_trick
from detcli.text import one_line

# What a recipe says about itself; everything else is a setting.
DESCRIPTIONS = ("name", "about", "expected")


@dataclass(frozen=True)
class LoadedRecipe:
    """A resolved recipe.

    origins: dotted key -> "default", "recipe FILE:LINE", "trick NAME" or "command line";
    notes: what the user should know about how it was resolved, one sentence each.
    """

    recipe: Recipe
    origins: dict[str, str]
    source: Path
    notes: tuple[str, ...] = ()


def load_recipe(
    path_or_name: str | Path, overrides: Sequence[str] = (), tricks: Sequence[str] = ()
) -> LoadedRecipe:
    """Resolve a recipe: defaults < the file < tricks in their order < overrides `key.sub=value`.

    Raises:
        RecipeError: with one line for every fault of the file, the tricks and the overrides.
    """
    source = find_recipe(path_or_name)
    layers = Layers.from_document(read_file(source), one_line(str(source)))
    return _resolve(layers, source, overrides, tricks)


def override_recipe(recipe: Recipe, overrides: Sequence[str], where: str) -> Recipe:
    """A resolved recipe, say a checkpoint's, with overrides; `where` names it in messages.

    Raises:
        RecipeError: as load_recipe.
    """
    layers = Layers.from_document(read_text(dump_yaml(recipe), where), where)
    return _resolve(layers, Path(where), overrides, ()).recipe


def _resolve(
    layers: Layers, source: Path, overrides: Sequence[str], tricks: Sequence[str]
) -> LoadedRecipe:
    chosen = layers.read_each(read_trick, tricks, 1)
    for trick in chosen:
        layers.apply(trick.settings)
    top = len(tricks) + 1
    layers.apply(layers.read_each(parse_override, overrides, top))
    for line in (*check_choice(chosen), *check_early(chosen, layers.values)):
        layers.report(line, (top, 0))
    recipe = layers.validate()
    unmet = check_needs(chosen, recipe)
    if unmet:
        raise RecipeError("\n".join(unmet))
    return LoadedRecipe(recipe, layers.origins(recipe), source, tuple(layers.notes))


def list_recipes() -> list[LoadedRecipe]:
    """The shipped recipes, by name.

    Raises:
        RecipeError: one of them is not valid.
    """
    return [load_recipe(path) for path in shipped_recipes()]


def recipe_from_dict(mapping: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `Recipe.model_dump` gave; `where` begins the error lines.

    Raises:
        RecipeError: it is not a valid recipe.
    """
    try:
        return Recipe.model_validate(_without_dead_options(mapping))
    except ValidationError as error:
        lines = [problem.line(where) for problem in explain(error, mapping)]
        raise RecipeError("\n".join(lines)) from error


def _without_dead_options(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Without suppression options that do nothing: in older checkpoints every method has all."""
    given = mapping.get("postprocess")
    if not isinstance(given, Mapping) or str(given.get("method")) not in SECTIONS:
        return dict(mapping)
    options = {key: value for key, value in given.items() if value is not None}
    kept = ("method", *SECTIONS[options["method"]].acting(options))
    return {**mapping, "postprocess": {key: options[key] for key in options if key in kept}}


def dump_yaml(recipe: Recipe) -> str:
    """The complete recipe as YAML, in the order of the schema; it reads back as the same recipe."""
    values = plain(recipe)
    values["expected"] = [
        {key: value for key, value in entry.items() if value is not None}
        for entry in values["expected"]
    ]
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def diff_recipes(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, value in a, value in b) for every setting whose resolved values differ; None where a
    recipe does not have the key. Name, about and expected are no settings."""
    left, right = (flatten(plain(recipe)) for recipe in (a, b))
    return [
        (key, left.get(key), right.get(key))
        for key in {**left, **right}
        if key not in DESCRIPTIONS and left.get(key) != right.get(key)
    ]
