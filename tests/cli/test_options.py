"""The command line is frozen: names, defaults and kinds of every verb's arguments and options.

`!` is required, `*` may be repeated, `=` shows the default; help texts are free to change.
"""

from __future__ import annotations

from typing import Any

import pytest
import typer

from detcli.cli.app import VERBS, build_app

OPTIONS = {
    "train": """
        [RECIPE] [OVERRIDES]... --trick* --out --resume --weights --device --gpus=1 --seed --overfit
        --dry-run --replay --json --quiet
    """,
    "eval": """
        [TARGET] [OVERRIDES]... --predictions --gt --checkpoint --split --candidates --metric=coco
        --iou=0.5 --plus-one --classwise --analyse --conf=0.25 --plots --worst --verify
        --allow-threshold --device --out --json --quiet
    """,
    "predict": """
        RUN IMAGES... --conf=0.3 --device --out --json --quiet
    """,
    "tta": """
        RUN [OVERRIDES]... --scales=1.0 --flip --slices --overlap=0.2 --merge=wbf --checkpoint
        --split --save-views --bootstrap=1000 --seed=0 --device --out --json --quiet
    """,
    "nms-compare": """
        PREDICTIONS... --methods= --method* --gt --weights --baseline=nms --iou --max-det
        --class-agnostic --sweep --bootstrap=1000 --seed=0 --allow-threshold --out --json --quiet
    """,
    "compare": """
        A B --gt --fail-if-worse --at-score* --at-recall* --classwise --bootstrap=1000 --seed=0
        --allow-threshold --out --json --quiet
    """,
    "ablate": """
        RECIPE [OVERRIDES]... --tricks= --mode=add-one --seeds=1 --budget=1.0 --executor=local
        --address=auto --gpus --cpus=1 --jobs --out --bootstrap=1000 --dry-run --json --quiet
    """,
    "lr-scale": """
        [RECIPE] [OVERRIDES]... --trick* --gpus=1 --imgs-per-gpu --accumulate --rule --optimizer
        --base-lr --base-batch --images --epochs --iterations --write --force --find --steps
        --min-lr --max-lr --device --out --json --quiet
    """,
    "profile": """
        RECIPE [OVERRIDES]... --trick* --what=all --batch --size --seconds --vs --weights --compile
        --trace --device --json --quiet
    """,
    "data preview": """
        RECIPE [OVERRIDES]... --trick* --num=16 --split=train --seed --out=preview.png --json
        --quiet
    """,
    "data inject": """
        RUN [OVERRIDES]... --out! --into --split=train --false-positives=2 --objects=1
        --min-score=0.3 --max-patches=1000 --places=10 --threshold=0.2 --blend=poisson --limit
        --seed=0 --device --json --quiet
    """,
    "recipes list": """
        --json --quiet
    """,
    "recipes tricks": """
        --json --quiet
    """,
    "recipes show": """
        RECIPE [OVERRIDES]... --trick* --yaml --json --quiet
    """,
    "recipes copy": """
        RECIPE [DESTINATION] --force --json --quiet
    """,
    "recipes diff": """
        A B --json --quiet
    """,
    "recipes check": """
        PATHS... --json --quiet
    """,
    "recipes schema": """
        --out --json --quiet
    """,
    "weights import": """
        FILE [OVERRIDES]... --from=mmdetection --recipe --classes --to-classes --out --json --quiet
    """,
    "export": """
        RUN --out --device --json --quiet
    """,
    "env": """
        --json --quiet
    """,
}


def commands() -> dict[str, Any]:
    """Every verb and sub-command by name; typer brings its own copy of click's classes."""
    found = {}
    for verb in VERBS:
        group: Any = typer.main.get_command(build_app([verb.name]))
        command = group.commands[verb.name]
        for name, inner in getattr(command, "commands", {"": command}).items():
            found[f"{verb.name} {name}".strip()] = inner
    return found


def written(parameter: Any) -> str:
    """A parameter as OPTIONS writes it."""
    name = parameter.opts[0]
    if not name.startswith("-"):
        name = name.upper() if parameter.required else f"[{name.upper()}]"
        return f"{name}..." if parameter.nargs == -1 else name
    default = getattr(parameter.default, "value", parameter.default)
    shown = "" if default is None or default is False or default == () else f"={default}"
    return name + "!" * parameter.required + "*" * parameter.multiple + shown


@pytest.mark.parametrize("name", [*OPTIONS, "val"])
def test_the_options_of_a_verb_are_frozen(name: str) -> None:
    found = [written(parameter) for parameter in commands()[name].params]
    assert found == OPTIONS["eval" if name == "val" else name].split()


def test_every_verb_is_listed_here() -> None:
    assert set(commands()) == {*OPTIONS, "val"}


def test_every_option_has_a_help_text() -> None:
    for name, command in commands().items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.opts[0]}"
