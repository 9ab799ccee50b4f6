"""One process or many: ranks, the process group, and starting several processes on one machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from detcli.errors import UsageError


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
    """Join the process group that torchrun describes in the environment, or be alone.

    device: `cpu`, `cuda`, an index such as `1`, or None for CUDA where there is one.
    Raises UsageError when CUDA is asked for and absent.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = _pick_device(device, int(os.environ.get("LOCAL_RANK", "0")), world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            device_id=chosen if chosen.type == "cuda" else None,
        )
    return Ranks(rank, world_size, chosen)


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


def launch(num_processes: int, arguments: list[str]) -> int:
    """Run `python -m detcli ARGUMENTS` in several processes on this machine; the exit code.

    The rendezvous listens on 127.0.0.1 only. The exit code is that of the first rank that failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id="detcli",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
    )
    import sys

    try:
        elastic_launch(config, sys.executable)("-m", "detcli", *arguments)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return int(first.exitcode) if first.exitcode > 0 else 1
    return 0
