"""What this machine and this installation are, for env.json and `detcli env`."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = (
    "detcli",
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "numba",
    "pycocotools",
    "pydantic",
    "typer",
)


def environment() -> dict[str, Any]:
    """Versions, CPU and accelerators as plain values."""
    import torch

    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gib": round(torch.cuda.get_device_properties(index).total_memory / 2**30, 1),
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if devices else None,
        "devices": devices,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
