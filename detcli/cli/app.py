"""The command line: one line per verb, whose module is imported only when the verb is asked for.

A verb's module holds either `command`, a typed typer function, or `app`, a `typer.Typer` with
sub-commands.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from detcli import __version__
from detcli.cpu import use_large_pages
from detcli.errors import DetcliError


class Verb(NamedTuple):
    """One line of `detcli --help`."""

    name: str
    module: str
    help: str


VERBS = (
    Verb("train", "detcli.cli.train", "Train a detector from a recipe."),
    Verb("eval", "detcli.cli.evaluate", "Measure a run, a checkpoint or a predictions file."),
    Verb("val", "detcli.cli.evaluate", "The same as eval."),
    Verb("predict", "detcli.cli.predict", "Detect objects in image files and draw them."),
    Verb("tta", "detcli.cli.tta", "Test-time augmentation: its gain and its cost."),
    Verb("nms-compare", "detcli.cli.nms_compare", "Hold suppression and fusion methods together."),
    Verb("compare", "detcli.cli.compare", "Is run B better than A, and is it more than noise?"),
    Verb("ablate", "detcli.cli.ablate", "Which tricks pay, by how much, and at what cost?"),
    Verb("lr-scale", "detcli.cli.lr_scale", "Which learning rate for this batch size?"),
    Verb("profile", "detcli.cli.profile", "What a recipe costs, and where its time goes."),
    Verb("data", "detcli.cli.data", "Look at a data set as the network will see it."),
    Verb("recipes", "detcli.cli.recipes", "List, show, copy, compare and check recipes."),
    Verb("weights", "detcli.cli.weights", "Bring in public checkpoints."),
    Verb("export", "detcli.cli.export", "Weights for inference alone, checked, timed."),
    Verb("env", "detcli.cli.env", "Versions, processors and accelerators of this machine."),
)

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h: none of the codes that scripts act on


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Accepted before and after the verb, so it is taken out before typer sees the rest.
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        use_large_pages()
        build_app(arguments)(args=arguments, prog_name="detcli")
    except DetcliError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(f"error: {_rank()}{line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "this is a mistake in detcli; --debug shows where"
        print(f"error: {what} ({hint})", file=sys.stderr)
        sys.exit(INTERNAL_ERROR)


def _rank() -> str:
    """Which of several training processes speaks."""
    return f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """All verbs by name and help text, and the one that is asked for in full."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # importing rich's renderer would double the start-up time
    )
    app.callback()(_options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for verb in VERBS:
        if verb.name == asked:
            _mount(app, verb)
        else:
            app.command(verb.name, help=verb.help)(_not_asked)
    return app


def _mount(app: typer.Typer, verb: Verb) -> None:
    module = importlib.import_module(verb.module)
    if hasattr(module, "app"):
        module.app.info.rich_markup_mode = None
        app.add_typer(module.app, name=verb.name, help=verb.help)
    else:
        app.command(verb.name)(module.command)


def _not_asked() -> None:
    """Stands in the help for a verb that this run does not need."""


def _print_version(asked: bool) -> None:
    if asked:
        print(f"detcli {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works everywhere.")
    ] = False,
) -> None:
    """Which trick helps your object detector, by how much, and is the difference real?"""
