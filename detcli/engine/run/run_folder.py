"""Run folders: runs/<recipe name>/<n>/, never overwritten."""

from __future__ import annotations

from pathlib import Path

from detcli.errors import CheckpointError, UsageError


def create(name: str, out: Path | None, root: Path = Path("runs")) -> Path:
    """A new, empty run folder: `out`, or the next free number under runs/<name>/.

    Raises UsageError when `out` exists and holds anything.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"--out {out}: exists already and is not empty; "
                "name another folder, or continue that run with --resume"
            )
        out.mkdir(parents=True, exist_ok=True)
        return out
    parent = root / name
    parent.mkdir(parents=True, exist_ok=True)
    number = max([0, *_numbers(parent)])
    while True:
        number += 1
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def newest(name: str, root: Path = Path("runs")) -> Path:
    """The newest run of a recipe that has a checkpoint to go on from."""
    parent = root / name
    numbers = sorted(_numbers(parent), reverse=True) if parent.is_dir() else []
    for number in numbers:
        if (parent / str(number) / "last.pt").is_file():
            return parent / str(number)
    raise CheckpointError(f"{parent}: no run with a last.pt to resume from")


def _numbers(parent: Path) -> list[int]:
    return [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
