"""The modules that a network is made of, and what each of them costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from detcli.models.detector import Detector

DEPTH = 2  # a network's children, and theirs


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
