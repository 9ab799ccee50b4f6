"""Start-up is part of the product: the help imports nothing that only a verb needs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from detcli.cli.app import ALLOCATION, VERBS, main

HEAVY = ("torch", "numpy", "pydantic", "cv2", "numba", "matplotlib", "yaml", "rich.console")


def loaded_modules(*arguments: str) -> set[str]:
    """What is imported when `detcli` has run with these arguments."""
    code = (
        "import sys\n"
        "from detcli.cli.app import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    print('\\n' + ' '.join(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_verb() -> None:
    modules = loaded_modules("--help")
    assert "detcli.cli.app" in modules
    assert not modules & set(HEAVY)
    assert not modules & {verb.module for verb in VERBS}


@pytest.mark.parametrize("arguments", [("recipes", "list"), ("recipes", "show", "atss_r50")])
def test_recipes_never_import_torch(arguments: tuple[str, ...]) -> None:
    modules = loaded_modules(*arguments)
    assert "detcli.recipe" in modules
    assert not modules & {"torch", "numba", "cv2", "matplotlib"}


@pytest.mark.parametrize("arguments", [("recipes", "list"), ("lr-scale", "--gpus", "4")])
def test_what_needs_no_schema_does_not_build_it(arguments: tuple[str, ...]) -> None:
    assert not loaded_modules(*arguments) & {
        "detcli.recipe.schema",
        "detcli.recipe.sections.section",
    }


def test_a_rate_needs_no_arrays() -> None:
    assert "numpy" not in loaded_modules("lr-scale", "atss_r50")


def test_help_lists_every_verb_with_its_text() -> None:
    done = run("-m", "detcli", "--help")
    for verb in VERBS:
        assert f"{verb.name} " in done.stdout
        assert verb.help.split(";")[0][:40] in done.stdout


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_listed_verb_can_be_asked_for_help(verb: str) -> None:
    done = run("-m", "detcli", verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"detcli {verb}" in done.stdout


def test_allocation_is_settled_before_torch_and_left_to_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ALLOCATION:
        for before in (None, "0"):
            monkeypatch.setenv(name, before or "")
            if before is None:
                monkeypatch.delenv(name)
            with pytest.raises(SystemExit):
                main(["--version"])
            assert os.environ[name] == (before or ALLOCATION[name])


def test_version() -> None:
    from detcli import __version__

    assert run("-m", "detcli", "--version").stdout == f"detcli {__version__}\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
