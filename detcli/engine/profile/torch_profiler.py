"""What torch's profiler tells: how much memory something takes, and a chrome trace of steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from detcli.engine.train.loop import train_batch
from detcli.engine.train.trainer import Trainer
from detcli.errors import UsageError
from detcli.phases import listening
from detcli.types import Batch

GIB = 2**30
STEPS = 3  # in a trace
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # proc(5): reset the peak resident size to the current one


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory_gib` begin anew; on the CPU where the system can, which Linux does."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_CLEAR, os.W_OK):
        _CLEAR.write_text(_FORGET_PEAK)


def allocated_peak_gib(run: Callable[[], object], device: torch.device) -> float:
    """The most memory in GiB that torch held during run() beyond what it held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / GIB
    with silenced(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    # The public list of events gives the memory of whole operators, not of single allocations.
    events = [
        (event.start_ns(), event.nbytes())
        for event in found.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = highest = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        highest = max(highest, held)
    return highest / GIB


@contextmanager
def silenced() -> Iterator[None]:
    """Keep what the profiler's library writes to standard error from the user: it reports a
    missing GPU and memory that was allocated before it started."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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
