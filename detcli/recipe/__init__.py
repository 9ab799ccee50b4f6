"""Recipes: what a training run is made of, as checked, frozen YAML. Never imports torch.

Modules are imported when something of them is asked for: building the schema takes a quarter of a
second, and commands that only look names up do not need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detcli.recipe.files import find_recipe
    from detcli.recipe.index import index_recipes
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
    "index_recipes",
    "json_schema",
    "list_recipes",
    "load_recipe",
    "override_recipe",
    "recipe_from_dict",
]

_MODULE_OF = {"find_recipe": "files", "index_recipes": "index", "Recipe": "schema"}
_MODULE_OF |= {"json_schema": "schema"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'load')}"), name)
