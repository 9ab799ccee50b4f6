"""One process or many: ranks, the process group, and starting several processes on one machine."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from detcli.errors import UsageError

STORE = "DETCLI_STORE"  # the file through which the processes of `launch` find each other


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str | None) -> Ranks:
    """Join the process group that `launch` or torchrun describes in the environment, or be alone.

    device: `cpu`, `cuda`, an index such as `1`, or None for CUDA where there is one.
    Raises UsageError when CUDA is asked for and absent.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = _pick_device(device, int(os.environ.get("LOCAL_RANK", "0")), world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        store = os.environ.get(STORE)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            init_method=f"file://{store}" if store else "env://",
            rank=rank,
            world_size=world_size,
            device_id=chosen if chosen.type == "cuda" else None,
        )
    return Ranks(rank, world_size, chosen)


def start_alone(device: str | None, verb: str) -> Ranks:
    """As `start`, for a verb that runs in one process. Raises UsageError where there are more."""
    ranks = start(device)
    if ranks.world_size > 1:
        raise UsageError(f"{verb}: runs in one process; start it without torchrun")
    return ranks


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _pick_device(device: str | None, local_rank: int, world_size: int) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    names = device.removeprefix("cuda").removeprefix(":")
    try:
        indices = [int(part) for part in names.split(",")] if names else []
    except ValueError:
        raise UsageError(
            f"--device: expected cpu, cuda or indices such as 0 or 0,1, got {device!r}"
        ) from None
    if not torch.cuda.is_available():
        raise UsageError(f"--device {device}: this machine has no usable CUDA; use --device cpu")
    if not indices:
        indices = list(range(torch.cuda.device_count()))
    if local_rank >= len(indices) or max(indices) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: {world_size} ranks asked for, "
            f"{torch.cuda.device_count()} CUDA devices are here"
        )
    return torch.device("cuda", indices[local_rank])


def gather(value: Any) -> list[Any] | None:
    """The values of all ranks in rank order on rank 0, None elsewhere."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, gathered)
    return gathered


def from_main(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` in several processes on this machine; the exit code.

    They find each other through a file and talk over the loop-back interface, so that no port is
    open to other machines. The exit code is that of the first rank that failed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    loopback = "lo0" if sys.platform == "darwin" else "lo"
    with tempfile.TemporaryDirectory(prefix="detcli-") as folder:
        shared = {
            STORE: f"{folder}/store",
            "WORLD_SIZE": str(num_processes),
            "GLOO_SOCKET_IFNAME": loopback,
            "NCCL_SOCKET_IFNAME": loopback,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")
            or str(max(1, (os.cpu_count() or 1) // num_processes)),
        }
        ranks = range(num_processes)
        context = start_processes(
            "detcli",
            sys.executable,
            args=dict.fromkeys(ranks, ("-u", *arguments)),
            envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
            logs_specs=DefaultLogsSpecs(),
        )
        try:
            result = context.wait(period=0.2)
        finally:
            context.close()
    failures = [] if result is None else list(result.failures.values())
    if not failures:
        return 0
    first = min(failures, key=lambda failure: failure.timestamp)
    return int(first.exitcode) if first.exitcode > 0 else 1
