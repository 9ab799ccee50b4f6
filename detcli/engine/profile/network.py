"""The network that is profiled, its input, and a forward pass as evaluation makes it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from detcli.engine.detect.export import evaluation_shape
from detcli.engine.run.batch import autocast
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.build import detector_of
from detcli.errors import UsageError
from detcli.models.detector import Detector
from detcli.models.fuse import fuse
from detcli.recipe import Recipe

SMALLEST, LARGEST = 32, 8192  # sides of an image in pixels: a cell of C5, and a slip of the finger
PRECISIONS = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Case:
    """A recipe whose network is looked at, the classes it is built for, and a checkpoint with its
    weights; without one they are random."""

    recipe: Recipe
    class_names: tuple[str, ...]
    weights: Path | None = None


@dataclass(frozen=True)
class Network:
    """A detector on its device, in eval mode, and the (height, width) of its padded input."""

    recipe: Recipe
    detector: Detector
    shape: tuple[int, int]
    device: torch.device
    num_classes: int

    @property
    def precision(self) -> str:
        """What forward passes compute in."""
        return PRECISIONS[self.recipe.train.amp]

    def noise(self, batch: int) -> Tensor:
        """(batch, 3, height, width) random numbers, laid out as the recipe asks."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, *self.shape, generator=generator).to(self.device)
        if self.recipe.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> object:
        """The outputs, in the recipe's precision; sizes: valid (height, width) of each image."""
        with autocast(self.recipe, self.device):
            return self.detector(images, sizes=sizes)

    def fused(self) -> tuple[Network, list[str]]:
        """The same with what helps in training only turned into plain convolutions (see
        `detcli.models.fuse`), and what was replaced."""
        detector = copy.deepcopy(self.detector)
        names = fuse(detector)
        return replace(self, detector=detector), names


def build_network(case: Case, size: tuple[int, int] | None, ranks: Ranks, log: RunLog) -> Network:
    """The detector of a recipe; public weights are never fetched.

    size: (height, width) in place of what the recipe evaluates, before padding.
    Raises UsageError for a size that cannot be, CheckpointError for weights that do not fit.
    """
    shape = input_shape(case.recipe, size)
    detector = detector_of(case.recipe, case.class_names, None, case.weights, log, pretrained=False)
    detector = detector.to(ranks.device).eval()
    return Network(case.recipe, detector, shape, ranks.device, len(case.class_names))


def input_shape(recipe: Recipe, size: tuple[int, int] | None) -> tuple[int, int]:
    """The padded (height, width) of the network's input. Raises UsageError."""
    if size is None:
        return evaluation_shape(recipe)
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise UsageError(
            f"--size {size[0]}x{size[1]}: expected sides of {SMALLEST} to {LARGEST} pixels"
        )
    return recipe.data.padded(size[0]), recipe.data.padded(size[1])


@contextlib.contextmanager
def within_memory(batch: int, network: Network) -> Iterator[None]:
    """Turn memory that does not suffice into a UsageError with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # CUDA's own error is a RuntimeError, too
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        height, width = network.shape
        raise UsageError(
            f"--batch {batch}: {batch} images of {height} x {width} do not fit into the memory of "
            f"{network.device}; ask for fewer, or for smaller ones with --size"
        ) from None
