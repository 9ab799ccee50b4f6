"""Where recipes and tricks are found."""

from __future__ import annotations

from pathlib import Path

from detcli.errors import RecipeError
from detcli.text import nearest, one_line


def recipes_folder() -> Path:
    """The recipes that came with the program: inside a wheel, or next to the source tree."""
    package = Path(__file__).parents[1]
    packed = package / "_recipes"
    return packed if packed.is_dir() else package.parent / "recipes"


def find_recipe(name_or_path: str | Path) -> Path:
    """A file, or the shipped recipe of that name.

    Raises:
        RecipeError: there is neither.
    """
    path, name, folder = Path(name_or_path), str(name_or_path), recipes_folder()
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name no file system takes: too long, or with a NUL
        pass
    if name not in _names(folder):
        raise _not_found(name, folder, "recipe", "a file or one of")
    return _from_here(folder / f"{name}.yaml")


def find_trick(name: str) -> Path:
    """The overlay of a trick: the shipped one of that name, or a file of one's own.

    Raises:
        RecipeError: there is no such trick.
    """
    folder = recipes_folder() / "tricks"
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    if name not in _names(folder):
        raise _not_found(name, folder, "trick", "a file (.yaml) or one of")
    return _from_here(folder / f"{name}.yaml")


def shipped_recipes() -> list[Path]:
    """The shipped recipes by name."""
    folder = recipes_folder()
    return [_from_here(folder / f"{name}.yaml") for name in _names(folder)]


def trick_names() -> list[str]:
    """The names of the shipped tricks."""
    return _names(recipes_folder() / "tricks")


def _from_here(path: Path) -> Path:
    """The path as a person in the current folder would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _not_found(name: str, folder: Path, kind: str, wanted: str) -> RecipeError:
    names = _names(folder)
    close = nearest(Path(name).stem if "\0" not in name else name, names)
    hint = f" did you mean {close}?" if close else ""
    return RecipeError(
        f"no {kind} {one_line(name)!r};{hint} expected {wanted}: {', '.join(names) or '(none)'}"
    )
