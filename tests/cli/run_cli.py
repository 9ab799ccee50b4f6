"""Run the command line in this process, as a test sees it."""

from typing import NamedTuple

from detcli.cli.app import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(capsys, *arguments: object) -> Done:
    """Exit code, stdout and stderr of `detcli ARGUMENTS`."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code or 0
    out, err = capsys.readouterr()
    return Done(code, out, err)
