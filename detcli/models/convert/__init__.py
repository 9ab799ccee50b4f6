"""Public checkpoints of other toolboxes, brought into the detectors here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from detcli.models.convert.files import PublicWeights, read_weights
from detcli.models.convert.mmdetection import convert_mmdetection, recognise_mmdetection
from detcli.models.convert.names import ConversionReport, SourceFacts
from detcli.models.convert.torchvision import convert_torchvision, recognise_torchvision

__all__ = [
    "SOURCES",
    "ConversionReport",
    "PublicWeights",
    "Source",
    "SourceFacts",
    "convert_mmdetection",
    "convert_torchvision",
    "read_weights",
    "recognise_mmdetection",
    "recognise_torchvision",
]


class Source(NamedTuple):
    """How to bring in one toolbox's checkpoints.

    recognise(weights, where) tells what detector they are of, before a model is built; convert
    (tensors, model, where) copies them into that model.
    """

    recognise: Callable[[PublicWeights, str], SourceFacts]
    convert: Callable[[Mapping[str, Tensor], nn.Module, str], ConversionReport]


SOURCES: dict[str, Source] = {
    "mmdetection": Source(recognise_mmdetection, convert_mmdetection),
    "torchvision": Source(recognise_torchvision, convert_torchvision),
}
