"""`detcli recipes`: list, show, copy, diff, check, schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detcli.cli.options import Json, Overrides, Quiet, RecipeName, Tricks
from detcli.cli.output import print_json, print_table, say
from detcli.errors import RecipeError, UsageError
from detcli.files import write_atomically

if TYPE_CHECKING:
    from detcli.recipe.index import Entry

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(*, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped recipes with their expected AP."""
    from detcli.recipe import index_recipes

    found = index_recipes()
    if as_json:
        print_json([each._asdict() | {"path": str(each.path)} for each in found])
    elif quiet:
        print("\n".join(each.name for each in found))
    else:
        rows = [(each.name, _first_sentence(each.about), _expected_ap(each)) for each in found]
        print_table(("recipe", "about", "expected AP"), rows)


@app.command()
def tricks(*, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped tricks, and which of them exclude each other."""
    from detcli.recipe.sections.section import plain
    from detcli.recipe.tricks import list_tricks

    found = list_tricks()
    if as_json:
        print_json([{"name": each.name, "path": each.file, **plain(each.info)} for each in found])
    elif quiet:
        print("\n".join(each.name for each in found))
    else:
        rows = [
            (each.name, ", ".join(each.info.conflicts) or "-", each.info.about) for each in found
        ]
        print_table(("trick", "excludes", "about"), rows)


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    trick: Tricks = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the complete recipe as YAML.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show every value that training would use, and where it was set."""
    from detcli.recipe import dump_yaml, load_recipe
    from detcli.recipe.sections.section import flatten, plain

    loaded = load_recipe(recipe, overrides or (), trick or ())
    for note in loaded.notes:
        say(note, quiet=quiet)
    values = plain(loaded.recipe)
    if as_json:
        document = {"source": str(loaded.source), "recipe": values, "origins": loaded.origins}
        print_json({**document, "notes": list(loaded.notes)})
    elif as_yaml:
        print(dump_yaml(loaded.recipe), end="")
    else:
        rows = [(key, _cell(value), loaded.origins[key]) for key, value in flatten(values).items()]
        print_table(("key", "value", "origin"), rows)


@app.command()
def copy(
    recipe: RecipeName,
    destination: Annotated[
        Path | None,
        typer.Argument(metavar="[DEST]", help="File or folder; default: current folder."),
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a recipe to edit it, named after the new file."""
    from detcli.recipe import find_recipe

    source = find_recipe(recipe)
    target = destination or Path.cwd()
    if target.is_dir():
        target = target / source.name
    if target.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{target}: expected a folder or a file that ends in .yaml")
    if target.exists() and not force:
        raise UsageError(
            f"{target} already exists; choose another name, or overwrite it with --force"
        )
    write_atomically(target, _renamed(source, target.stem))
    if as_json:
        print_json({"source": str(source), "path": str(target)})
    else:
        say(f"{source} -> {target}", quiet=quiet)


@app.command()
def diff(a: RecipeName, b: RecipeName, *, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show the settings in which two recipes differ."""
    from detcli.recipe import diff_recipes, load_recipe

    left, right = load_recipe(a), load_recipe(b)
    rows = diff_recipes(left.recipe, right.recipe)
    if as_json:
        changes = [{"key": key, "a": old, "b": new} for key, old, new in rows]
        print_json({"a": str(left.source), "b": str(right.source), "rows": changes})
    elif rows:
        cells = [(key, _cell(old), _cell(new)) for key, old, new in rows]
        print_table(("key", left.recipe.name, right.recipe.name), cells)
    else:
        say("the two recipes have the same settings", quiet=quiet)


@app.command()
def check(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Recipe files, names, or folders.")
    ],
    *,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Validate recipes and list every error; exit 2 on any."""
    from detcli.recipe import load_recipe

    results: list[dict[str, Any]] = []
    for path in _expand(paths):
        errors: list[str] = []
        try:
            load_recipe(path)
        except RecipeError as error:
            errors = str(error).splitlines()
        results.append({"path": path, "ok": not errors, "errors": errors})
        for line in errors:
            say(f"error: {line}")
        if not errors and not as_json and not quiet:
            print(f"OK {path}")
    if as_json:
        print_json(results)
    if not all(result["ok"] for result in results):
        raise typer.Exit(RecipeError.exit_code)


@app.command()
def schema(
    *,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from detcli.recipe import json_schema

    if out is None:
        print_json(json_schema())
        return
    write_atomically(out, json.dumps(json_schema(), indent=2) + "\n")
    if as_json:
        print_json({"path": str(out)})
    else:
        say(f"wrote {out}", quiet=quiet)


def _expand(paths: list[str]) -> list[str]:
    """Folders become the recipes in them."""
    found: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            inside = sorted(str(file) for file in Path(path).glob("*.yaml"))
            if not inside:
                raise UsageError(f"{path}: no *.yaml files in this folder")
            found += inside
        else:
            found.append(path)
    return found


def _renamed(source: Path, name: str) -> str:
    """The text of a recipe under another name: with its comments, where the name is on a line of
    its own, else written anew."""
    from detcli.recipe import dump_yaml, load_recipe, recipe_from_dict
    from detcli.recipe.reading import load_text, read_text

    recipe = load_recipe(source).recipe
    renamed = recipe_from_dict({**recipe.model_dump(), "name": name}, where=f"copy as {name!r}")
    written = dump_yaml(renamed)
    text = re.sub(r"(?m)^name:.*$", written.splitlines()[0], load_text(source), count=1)
    if read_text(text, str(source)).values.get("name") == name:
        return text
    return written


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


def _expected_ap(entry: Entry) -> str:
    figures = [each["AP"] for each in entry.expected if each["AP"] is not None]
    return " / ".join(f"{100 * figure:.1f}" for figure in figures)


def _cell(value: Any) -> str:
    """A value in a table: as YAML writes it, lists of sections by their length."""
    from detcli.recipe.reading import shown

    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"({len(value)} entries)"
    return value if isinstance(value, str) else shown(value)
