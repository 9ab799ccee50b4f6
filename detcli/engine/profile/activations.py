"""What a forward pass keeps in memory for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker


class _Births(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers every piece of memory that an operator makes, without keeping it, and the modules
    that ran then."""

    def __init__(self, tracker: ModuleTracker, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker = tracker
        self.known = known  # pieces that were there before, by their place
        self.made: list[tuple[StorageWeakRef, int, int, tuple[str, ...]]] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        parents = tuple(self.tracker.parents)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                if place not in self.known:
                    weak = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self.made.append((weak, place, size, parents))
        return result


def kept_bytes(model: nn.Module, images: Tensor) -> tuple[int, Mapping[str, int]]:
    """Bytes that are still held after `model(images)` with a gradient, for its backward pass and
    as its outputs; and those of every module by its name in the network, children included.

    Each piece of memory counts once, for the module that made it; parameters, buffers and
    `images`, which are there anyway, do not count.
    """
    root = type(model).__name__
    before = (*model.parameters(), *model.buffers(), images)
    tracker = ModuleTracker()
    births = _Births(tracker, {tensor.untyped_storage().data_ptr() for tensor in before})
    with torch.enable_grad(), tracker, births:
        outputs = model(images)
    alive = {
        place: (size, parents)
        for reference, place, size, parents in reversed(births.made)  # the first one counts
        if not reference.expired()  # type: ignore[no-untyped-call]
    }
    del outputs  # held until here, and with it what its gradient needs
    by_module: Counter[str] = Counter()
    for size, parents in alive.values():
        by_module.update(dict.fromkeys(parents, size))
    return by_module["Global"], {
        name.removeprefix(f"{root}."): count
        for name, count in by_module.items()
        if name.startswith(f"{root}.")
    }
