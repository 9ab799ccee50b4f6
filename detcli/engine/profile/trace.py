"""A chrome trace of a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from detcli.engine.profile.memory import silenced
from detcli.engine.train.loop import train_batch
from detcli.engine.train.trainer import Trainer
from detcli.errors import UsageError
from detcli.phases import listening
from detcli.types import Batch

STEPS = 3


def check_trace(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured. Raises UsageError."""
    if not path.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--trace {path}: expected a file that ends in .json or .json.gz")
    if not path.parent.is_dir():
        raise UsageError(f"--trace {path}: no such folder {path.parent}")


def write_trace(trainer: Trainer, batches: Iterator[Batch], path: Path) -> None:
    """Record a few steps, with their phases by name, for chrome://tracing or ui.perfetto.dev."""
    activities = [ProfilerActivity.CPU]
    if trainer.run.ranks.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with silenced(), profile(activities=activities) as found, listening(record_function):
        for batch in islice(batches, STEPS):
            train_batch(trainer, batch)
    found.export_chrome_trace(str(path))
