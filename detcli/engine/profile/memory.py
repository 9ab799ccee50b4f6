"""How much memory something takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

GIB = 2**30
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
