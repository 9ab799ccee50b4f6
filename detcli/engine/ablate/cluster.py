"""Trials on a Ray cluster: one task each, with the GPUs it needs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detcli.engine.ablate.trial import Processes, Trial, train_trial, write_result
from detcli.errors import UsageError
from detcli.files import write_atomically


def run_on_ray(trials: Sequence[Trial], *, address: str, gpus: int, cpus: int) -> Iterator[Trial]:
    """Train, and yield each trial when it has ended.

    address: of a cluster (`auto`: the one this machine belongs to), or `local` for one on this
    machine only. Each trial waits for `gpus` devices and `cpus` cores of one node. The files of a
    trial but its weights come back to its folder here where the nodes do not share it.

    Raises UsageError where ray is not installed or no cluster answers.
    """
    ray = _connect(address)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(train_on_node)
    pending = {task.remote(trial, gpus): trial for trial in trials}
    try:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            trial = pending.pop(done)
            try:
                receive(trial, ray.get(done))
            except ray.exceptions.RayError as error:
                trial.folder.mkdir(parents=True, exist_ok=True)
                write_result(trial, f"ray: {' '.join(str(error).split())}")
            yield trial
    finally:
        for reference in pending:
            ray.cancel(reference)
        ray.shutdown()


def train_on_node(trial: Trial, gpus: int) -> dict[str, bytes]:
    """What a task does: train in a process of its own; every file but the weights.

    Ray names the devices of the task in CUDA_VISIBLE_DEVICES, which the process inherits.
    """
    processes = Processes()
    try:
        train_trial(trial, processes, {} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
    finally:
        processes.stop()
    files = (path for path in trial.folder.rglob("*") if path.is_file() and path.suffix != ".pt")
    return {str(path.relative_to(trial.folder)): path.read_bytes() for path in sorted(files)}


def receive(trial: Trial, files: dict[str, bytes]) -> None:
    """Write what a node sent, unless it wrote to the same place itself."""
    for name, content in files.items():
        path = trial.folder / Path(name)
        if path.is_file() and path.read_bytes() == content:
            continue
        write_atomically(path, content)


def _connect(address: str) -> Any:
    if address == "local" or address.startswith(("127.0.0.1:", "localhost:")):
        # Ray would put the machine's outside address in the place of the loop-back one.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--executor ray: needs ray: pip install 'detcli[ray]'") from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        _check_reachable(address)
        ray.init(address=address, **options)
    except OSError as error:  # ray's own ConnectionError is one
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--address {address}: no Ray cluster answers ({reason}); start one with `ray start`, "
            "or use --address local"
        ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise OSError at once where nothing listens; ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
