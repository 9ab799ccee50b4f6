"""Tiny recipes for tests that train for real."""

from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "about": "A small network on a few generated images.",
    "data": {
        "format": "shapes",
        "root": "data/shapes",
        "shapes": {"variant": "plain", "num_train": 8, "num_val": 4, "size": [64, 64], "seed": 0},
        "resize": {"short": [64], "long": 64},
        "batch_per_rank": 2,
        "workers": 0,
    },
    "model": {
        "name": "atss",
        "backbone": {
            "depth": 18,
            "norm": "bn",
            "norm_eval": False,
            "frozen_stages": 0,
            "weights": None,
        },
        "neck": {"out_channels": 64},
        "head": {"num_convs": 1},
    },
    "optim": {"name": "sgd", "lr": 0.01, "lr_batch": 2},
    "schedule": {"epochs": 2, "warmup_steps": 2},
    "train": {"log_every": 1},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested `changes` laid over it."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def write_tiny(folder: Path, **changes: Any) -> Path:
    """Write the tiny recipe, changed, into `folder`; its data set goes there too."""
    content = merged(TINY, {"data": {"root": str(folder / "shapes")}})
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merged(content, changes), sort_keys=False))
    return path
