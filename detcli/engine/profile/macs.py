"""Multiply-adds of a forward pass, by module and by kind of operation.

Letters: B images, C channels in, O channels out, K taps of a kernel, R regions; h, w cells of the
output.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401  (registers the operators that are counted below)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from detcli.layers.winograd import direct_convolutions

CORNERS = 4  # cells that a bilinear sample is the weighted sum of
KINDS = {
    "convolution": "convolution",
    "deform_conv2d": "deformable convolution",
    "roi_align": "RoI align",
    "grid_sampler": "bilinear sampling",
    "mm": "matrix product",
}  # part of an operator's name -> what a reader calls it


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one forward pass.

    by_module: every module that took part, by its name in the network, children included;
    by_operation: the same total by kind of operation.
    """

    total: int
    by_module: Mapping[str, int]
    by_operation: Mapping[str, int]


@torch.no_grad()
def count_macs(model: nn.Module, images: Tensor) -> Macs:
    """Multiply-adds of `model(images)`, in the mode that the model is in.

    Counted: convolutions, matrix products and attention (one for each product of two numbers that
    is added up), and what is sampled between cells (deformable convolution and attention, RoI
    align: 4 for each value). Norms, activations, element-wise sums and resizing are not, as in
    published figures.
    Nothing is computed where shapes are enough, that is unless they depend on values.
    """
    try:
        shapes_only = copy.deepcopy(model).to("meta")
        return _count(shapes_only, torch.empty_like(images, device="meta"))
    except RuntimeError:  # an operator that has no result without values
        return _count(model, images)


def _count(model: nn.Module, images: Tensor) -> Macs:
    with _countable(), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        model(images)
    counts = counter.get_flop_counts()
    root = type(model).__name__
    by_operation: Counter[str] = Counter()
    for operation, flops in counts.get("Global", {}).items():
        by_operation[_kind(str(operation))] += flops // 2
    return Macs(
        total=counter.get_total_flops() // 2,
        by_module={
            name.removeprefix(f"{root}."): sum(operations.values()) // 2
            for name, operations in counts.items()
            if name.startswith(f"{root}.")
        },
        by_operation=dict(by_operation.most_common()),
    )


@contextmanager
def _countable() -> Iterator[None]:
    """Every product is done by an operator that the counter knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # all of a layer in one operator
    try:
        # Attention as matrix products: not every processor's own kernel of it is known.
        with direct_convolutions(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _kind(operation: str) -> str:
    """What a reader calls an operator, say aten.convolution or aten.addmm."""
    return next((kind for part, kind in KINDS.items() if part in operation), operation)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operator -> floating-point operations, two for each multiply-add, for what torch's counter
    does not know."""
    operators = torch.ops.torchvision
    # The sizes of regions are needed, not only shapes.
    _roi_align_flops._get_raw = True  # type: ignore[attr-defined]
    return {
        operators.deform_conv2d: _deform_flops,
        operators.roi_align: _roi_align_flops,
        torch.ops.aten.grid_sampler_2d: _grid_sample_flops,
    }


def _deform_flops(
    input_shape: Any, weight_shape: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """The product of a convolution of this shape, and its samples: K taps of C channels for every
    cell of the output. weight (O, C / groups, height, width of the kernel)."""
    batch, out_channels, height, width = out_shape
    taps = math.prod(weight_shape[2:])
    product = out_channels * weight_shape[1] * taps
    samples = CORNERS * input_shape[1] * taps
    return int(2 * batch * height * width * (product + samples))


def _grid_sample_flops(*_: Any, out_shape: Any = None, **__: Any) -> int:
    """Each value of the output is the weighted sum of four cells."""
    return int(2 * CORNERS * math.prod(out_shape))


def _roi_align_flops(
    feature: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    ratio: int,
    *_: Any,
    **__: Any,
) -> int:
    """Samples of every output value: ratio x ratio of them, or where `ratio` is not above 0 one
    for each cell that a bin covers. rois (R, 5): image, x1, y1, x2, y2."""
    if ratio > 0:
        per_channel = len(rois) * height * width * ratio**2
    else:
        widths, heights = ((rois[:, 3:5] - rois[:, 1:3]) * scale).unbind(1)
        samples = (heights / height).ceil().clamp(min=0) * (widths / width).ceil().clamp(min=0)
        per_channel = int(samples.sum().item()) * height * width
    return 2 * CORNERS * feature.shape[1] * per_channel
