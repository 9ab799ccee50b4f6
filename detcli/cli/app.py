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
from detcli.text import one_line


class Verb(NamedTuple):
    """One line of `detcli --help`."""

    name: str
    module: str
    help: str


VERBS = (
    Verb("train", "detcli.cli.train", "Train a detector from a recipe."),
    Verb("eval", "detcli.cli.evaluate", "Evaluate a run, a checkpoint or a predictions file."),
    Verb("val", "detcli.cli.evaluate", "Alias of eval."),
    Verb("predict", "detcli.cli.predict", "Run a detector on image files and draw the boxes."),
    Verb("tta", "detcli.cli.tta", "Test-time augmentation: AP gain and inference time."),
    Verb(
        "nms-compare",
        "detcli.cli.nms_compare",
        "Compare NMS and box-fusion methods on the same candidates.",
    ),
    Verb(
        "compare", "detcli.cli.compare", "Compare two runs: AP difference with confidence interval."
    ),
    Verb("ablate", "detcli.cli.ablate", "Ablation study: gain and cost of each trick."),
    Verb("lr-scale", "detcli.cli.lr_scale", "Scale the learning rate to a batch size, or find it."),
    Verb("profile", "detcli.cli.profile", "Profile MACs, memory, data loading and training steps."),
    Verb("data", "detcli.cli.data", "Preview augmented images; inject hard negatives."),
    Verb("recipes", "detcli.cli.recipes", "List, show, copy, compare and check recipes."),
    Verb("weights", "detcli.cli.weights", "Import checkpoints from other toolboxes."),
    Verb("export", "detcli.cli.export", "Export fused weights for inference, verified and timed."),
    Verb("env", "detcli.cli.env", "Show package versions, CPUs and GPUs for bug reports."),
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
            print(f"error: {_rank()}{one_line(line)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "internal error, please report it; rerun with --debug for the traceback"
        print(f"error: {what} ({hint})", file=sys.stderr)
        sys.exit(INTERNAL_ERROR)


def _rank() -> str:
    """The rank of this process, if there are several."""
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
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after the verb.")
    ] = False,
) -> None:
    """Train object detectors, and measure which trick helps, by how much, and how surely."""
