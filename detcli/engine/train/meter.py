"""What happened since the last log line: losses, images, time, waiting, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from detcli.phases import phase
from detcli.types import Batch


class Meter:
    """Sums over the steps since `reset`; losses stay on the device until they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.fired: Counter[str] = Counter()
        self.seen = 0  # images since the start of the epoch
        self._before = 0.0  # seconds of this epoch before it was interrupted
        self.start()

    def start(self) -> None:
        """Start, or go on with, an epoch."""
        self._epoch_started = time.perf_counter()
        self.reset()

    @property
    def seconds(self) -> float:
        """Time spent in this epoch so far, that before an interruption included."""
        return self._before + time.perf_counter() - self._epoch_started

    def reset(self) -> None:
        """Start a new window."""
        self._losses: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def end_epoch(self) -> None:
        """Forget what belongs to the epoch."""
        self.fired.clear()
        self.seen, self._before = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch must remember."""
        return {"fired": dict(self.fired), "seen": self.seen, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fired = Counter(state["fired"])
        self.seen, self._before = state["seen"], state.get("seconds", 0.0)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, adding up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            with phase("data wait"):
                batch = next(iterator, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def add(self, losses: dict[str, Tensor], batch: Batch) -> None:
        """Take in one batch."""
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + value.detach().float()
        self._count += 1
        self._images += len(batch.targets)
        self.seen += len(batch.targets)
        self.fired.update(batch.fired)

    def sums(self) -> tuple[dict[str, float], int]:
        """Sum of each term over this rank's window, and how many batches it covers."""
        values = torch.stack(list(self._losses.values())).tolist() if self._losses else []
        return dict(zip(self._losses, values, strict=True)), self._count

    def losses(self) -> dict[str, float]:
        """Mean of each term and of their sum (`loss`) over the window and over all ranks, which
        have all seen the same number of batches."""
        values = torch.stack(list(self._losses.values()))
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        return mean_losses([(dict(zip(self._losses, values.tolist(), strict=True)), self._count)])

    def speed(self, world_size: int) -> dict[str, float]:
        """images_per_s over all ranks; data_wait, the fraction of time spent waiting for batches;
        memory_gib, the peak on the device (CUDA) or of the process."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        return {
            "images_per_s": round(self._images * world_size / elapsed, 2),
            "data_wait": round(self._waited / elapsed, 4),
            "memory_gib": round(peak_memory_gib(self.device), 3),
        }


def mean_losses(sums: list[tuple[dict[str, float], int]]) -> dict[str, float]:
    """The mean of each term over all batches of all ranks, and of their sum as `loss`."""
    total: Counter[str] = Counter()
    for terms, _ in sums:
        total.update(terms)
    count = sum(number for _, number in sums)
    means = {name: value / count for name, value in total.items()}
    return {"loss": sum(means.values()), **means}


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
