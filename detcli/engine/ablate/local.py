"""Trials on this machine: one after the other, or several at a time."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from detcli.engine.ablate.trial import Processes, Trial, train_trial
from detcli.errors import UsageError


def slots(gpus: int | None, jobs: int | None) -> list[dict[str, str]]:
    """The environment of each trial that can be at work at a time.

    gpus: CUDA devices of each trial; None: one, where there are any; with 0 the CPU cores
    are shared. jobs: trials at a time; None: as many as there are devices for, or 1 without CUDA.

    Raises UsageError where there are fewer devices than the trials need.
    """
    devices = [] if gpus == 0 else cuda_devices()
    each = gpus or min(1, len(devices))
    if not each:
        threads = max(1, (os.cpu_count() or 1) // (jobs or 1))
        count = os.environ.get("OMP_NUM_THREADS", str(threads))
        return [{"OMP_NUM_THREADS": count} for _ in range(jobs or 1)]
    most = len(devices) // each
    if most < (jobs or 1):
        raise UsageError(
            f"--jobs {jobs or 1} with --gpus {each} each: this machine has {len(devices)} devices"
        )
    groups = [devices[each * n : each * (n + 1)] for n in range(jobs or most)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def cuda_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name here."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    if visible:
        return visible.split(",")
    return [str(index) for index in range(torch.cuda.device_count())]


def run_locally(
    trials: Sequence[Trial], environments: Sequence[dict[str, str]], processes: Processes
) -> Iterator[Trial]:
    """Train, and yield each trial when it has ended."""
    free: queue.Queue[dict[str, str]] = queue.Queue()
    for environment in environments:
        free.put(environment)

    def work(trial: Trial) -> Trial:
        environment = free.get()
        try:
            train_trial(trial, processes, environment)
        finally:
            free.put(environment)
        return trial

    with ThreadPoolExecutor(len(environments)) as pool:
        futures = [pool.submit(work, trial) for trial in trials]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
