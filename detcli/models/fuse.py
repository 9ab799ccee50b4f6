"""Turn what helps in training only into the plain layers that it equals in inference."""

from __future__ import annotations

from torch import nn

from detcli.layers.implicit import ImplicitConv2d
from detcli.layers.rep import RepConv


def fuse(model: nn.Module) -> list[str]:
    """Replace, in place, every RepConv and every convolution with implicit knowledge by one plain
    convolution that computes the same in eval mode; the names of the parts that were replaced.

    The parameters then have the names of a model that was built with plain convolutions.
    """
    fused = []
    for name, part in list(model.named_modules()):
        if isinstance(part, RepConv | ImplicitConv2d):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, part.fused())
            fused.append(name)
    return fused
