"""Checkpoints: tensors and primitives only, written so that a kill leaves a loadable file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detcli.errors import CheckpointError
from detcli.files import write_atomically
from detcli.weights.files import load_safely

FORMAT = 1
REQUIRED = ("recipe", "class_names", "category_ids", "model")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; raises OutputError."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of detcli onto the CPU.

    Raises CheckpointError for anything that is not one: no file, a truncated one, a pickle with
    code in it, another tool's weights.
    """
    content = load_safely(path)
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(
            f"{path}: not a detcli checkpoint; "
            "import public checkpoints with `detcli weights import FILE --from ...`"
        )
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']}, this version reads {FORMAT}"
        )
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return content


def weights_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to use for inference: an average where there is one."""
    mean = (content.get("swa") or {}).get("model")
    weights: dict[str, torch.Tensor] = content.get("ema") or mean or content["model"]
    return weights


def find(path: Path) -> Path:
    """The checkpoint meant by a run folder (best, else last) or a file."""
    if path.is_dir():
        for name in ("best.pt", "last.pt"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path}: this folder holds neither best.pt nor last.pt")
    if not path.exists():
        raise CheckpointError(f"{path}: no such run folder or checkpoint")
    return path
