"""What a network costs: parameters, multiply-adds, activations, and the time of a forward pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from detcli.engine.profile.activations import kept_bytes
from detcli.engine.profile.macs import Macs, count_macs
from detcli.engine.profile.network import Network, within_memory
from detcli.engine.profile.timing import time_alternately
from detcli.engine.profile.torch_profiler import allocated_peak_gib
from detcli.engine.run.batch import autocast
from detcli.engine.run.log import RunLog
from detcli.models.detector import Detector
from detcli.recipe import Recipe

PERCENTILES = (50, 90, 99)
DEPTH = 2  # a network's children, and theirs


@dataclass(frozen=True)
class Latency:
    """Forward passes over one batch: their times in order, and the most memory that one takes
    beyond the weights."""

    batch: int
    times_ms: tuple[float, ...]
    memory_gib: float

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch * len(self.times_ms) / math.fsum(self.times_ms)

    @property
    def percentiles_ms(self) -> dict[str, float]:
        """p50, p90 and p99 of the times, interpolated; of few passes p99 is the slowest."""
        values = np.percentile(self.times_ms, PERCENTILES).tolist()
        return {f"p{which}": value for which, value in zip(PERCENTILES, values, strict=True)}


@dataclass(frozen=True)
class Cost:
    """Figures of one network; one latency for every batch size that was asked for."""

    parameters: int
    trainable: int
    macs: Macs
    latencies: tuple[Latency, ...]


@dataclass(frozen=True)
class Part:
    """A module with its children included.

    depth: 1 for a child of the network, 2 for a child's child; macs: of one image's forward pass;
    kept: bytes that this pass keeps for the backward pass.
    """

    name: str
    depth: int
    parameters: int
    trainable: int
    macs: int
    kept: int


@dataclass(frozen=True)
class ModelProfile:
    """The network of a recipe at its input of (height, width) `image`.

    kept: bytes that one image's forward pass keeps for its backward pass; state_bytes: weights,
    buffers and the optimiser's state, which a checkpoint of training holds; fused: the network
    after `detcli.models.fuse`, None where that changes nothing; fused_names: what it replaced.
    """

    image: tuple[int, int]
    num_classes: int
    precision: str
    cost: Cost
    parts: tuple[Part, ...]
    kept: int
    state_bytes: int
    fused: Cost | None
    fused_names: tuple[str, ...]


def measure_models(
    networks: Sequence[Network], log: RunLog, *, batches: Sequence[int], seconds: float
) -> list[ModelProfile]:
    """Measure the networks of recipes, in turn where times are taken.

    batches: images per pass; seconds: for the passes of one network at one batch size. Raises
    UsageError where a batch does not fit into memory.
    """
    variants = [(network, *network.fused()) for network in networks]
    everything = []
    for plain, fused, names in variants:
        everything += [plain, fused] if names else [plain]
    by_batch = [_latencies(everything, batch, log, seconds) for batch in batches]
    rows = zip(*by_batch, strict=True)  # one for each of `everything`
    profiles = []
    for plain, fused, names in variants:
        cost = _cost(plain, next(rows))
        kept, kept_by_module = _kept_per_image(plain)
        profiles.append(
            ModelProfile(
                image=plain.shape,
                num_classes=plain.num_classes,
                precision=plain.precision,
                cost=cost,
                parts=tuple(parts_of(plain.detector, cost.macs.by_module, kept_by_module)),
                kept=kept,
                state_bytes=state_bytes(plain.recipe, plain.detector),
                fused=_cost(fused, next(rows)) if names else None,
                fused_names=tuple(names),
            )
        )
    return profiles


def _latencies(
    networks: Sequence[Network], batch: int, log: RunLog, seconds: float
) -> list[Latency]:
    """Of one batch size, one for each network."""
    device = networks[0].device
    with within_memory(batch, max(networks, key=lambda network: math.prod(network.shape))):
        runs = [functools.partial(one.forward, one.noise(batch)) for one in networks]
        memory = [allocated_peak_gib(run, device) for run in runs]
        times = time_alternately(runs, device, log, f"model, batch {batch}", seconds=seconds)
    return [Latency(batch, tuple(row), peak) for row, peak in zip(times, memory, strict=True)]


def _cost(network: Network, latencies: Sequence[Latency]) -> Cost:
    total, trainable = count_parameters(network.detector)
    macs = count_macs(network.detector, network.noise(1))
    return Cost(total, trainable, macs, tuple(latencies))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many parameters there are, and how many of them learn."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(count for count, _ in counts), sum(count for count, learns in counts if learns)


def parts_of(detector: Detector, macs: Mapping[str, int], kept: Mapping[str, int]) -> list[Part]:
    """The modules of the first levels, each followed by its children; `macs` and `kept` go by
    name and lack what took no part."""
    return [
        Part(name, depth, *count_parameters(module), macs.get(name, 0), kept.get(name, 0))
        for name, depth, module in _modules(detector, "", 1)
    ]


def _modules(module: nn.Module, prefix: str, depth: int) -> Iterator[tuple[str, int, nn.Module]]:
    """Name, depth and module; a list of modules is no level of its own: nobody calls it."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList):
            yield from _modules(child, f"{path}.", depth)
            continue
        yield path, depth, child
        if depth < DEPTH:
            yield from _modules(child, f"{path}.", depth + 1)


def _kept_per_image(network: Network) -> tuple[int, dict[str, int]]:
    """Bytes kept for the backward pass, in all and by module; from two images where batch norms
    are trained, which cannot work with a single cell."""
    detector = network.detector
    detector.train()
    learns = any(isinstance(one, nn.BatchNorm2d) and one.training for one in detector.modules())
    images = 2 if learns else 1
    with within_memory(images, network), autocast(network.recipe, network.device):
        total, by_module = kept_bytes(detector, network.noise(images))
    detector.eval()
    return total // images, {name: count // images for name, count in by_module.items()}


def state_bytes(recipe: Recipe, detector: Detector) -> int:
    """Weights, buffers and what the optimiser remembers of each trainable parameter: a momentum
    (sgd), or two means (adamw)."""
    optim = recipe.optim
    memories = 2 if optim.name == "adamw" else int(optim.momentum > 0)
    learning = sum(one.nbytes for one in detector.parameters() if one.requires_grad)
    written: dict[int, int] = {
        tensor.data_ptr(): tensor.nbytes for tensor in detector.state_dict().values()
    }
    return sum(written.values()) + memories * learning
