"""Recipes: what a training run is made of, as checked, frozen YAML. Never imports torch."""

from detcli.recipe.files import find_recipe
from detcli.recipe.load import (
    LoadedRecipe,
    diff_recipes,
    dump_yaml,
    list_recipes,
    load_recipe,
    override_recipe,
    recipe_from_dict,
)
from detcli.recipe.schema import Recipe, json_schema

__all__ = [
    "LoadedRecipe",
    "Recipe",
    "diff_recipes",
    "dump_yaml",
    "find_recipe",
    "json_schema",
    "list_recipes",
    "load_recipe",
    "override_recipe",
    "recipe_from_dict",
]
