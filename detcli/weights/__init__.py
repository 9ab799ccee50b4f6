"""Public checkpoints of other toolboxes, brought into the detectors here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from detcli.weights.centernet import convert_centernet, recognise_centernet
from detcli.weights.darknet import (
    convert_darknet,
    convert_tianxiaomo,
    read_darknet,
    recognise_darknet,
    recognise_tianxiaomo,
)
from detcli.weights.deformable_detr import convert_deformable_detr, recognise_deformable_detr
from detcli.weights.detr import convert_detr, recognise_detr
from detcli.weights.files import PublicWeights, read_weights
from detcli.weights.mmdetection import convert_mmdetection, recognise_mmdetection
from detcli.weights.names import ConversionReport, SourceFacts
from detcli.weights.torchvision import convert_torchvision, recognise_torchvision
from detcli.weights.transformers import (
    convert_transformers,
    read_transformers,
    recognise_transformers,
)

__all__ = [
    "SOURCES",
    "ConversionReport",
    "PublicWeights",
    "Source",
    "SourceFacts",
    "convert_centernet",
    "convert_darknet",
    "convert_deformable_detr",
    "convert_detr",
    "convert_mmdetection",
    "convert_tianxiaomo",
    "convert_torchvision",
    "convert_transformers",
    "read_darknet",
    "read_transformers",
    "read_weights",
    "recognise_centernet",
    "recognise_darknet",
    "recognise_deformable_detr",
    "recognise_detr",
    "recognise_mmdetection",
    "recognise_tianxiaomo",
    "recognise_torchvision",
    "recognise_transformers",
]


class Source(NamedTuple):
    """How to bring in one toolbox's checkpoints.

    recognise(weights, where) tells what detector they are of, before a model is built; convert
    (tensors, model, where) copies them into that model; read(path) gives the file's tensors.
    """

    recognise: Callable[[PublicWeights, str], SourceFacts]
    convert: Callable[[Mapping[str, Tensor], nn.Module, str], ConversionReport]
    read: Callable[[Path], PublicWeights] = read_weights


SOURCES: dict[str, Source] = {
    "mmdetection": Source(recognise_mmdetection, convert_mmdetection),
    "torchvision": Source(recognise_torchvision, convert_torchvision),
    "centernet": Source(recognise_centernet, convert_centernet),
    "tianxiaomo": Source(recognise_tianxiaomo, convert_tianxiaomo),
    "darknet": Source(recognise_darknet, convert_darknet, read_darknet),
    "detr": Source(recognise_detr, convert_detr),
    "deformable-detr": Source(recognise_deformable_detr, convert_deformable_detr),
    "transformers": Source(recognise_transformers, convert_transformers, read_transformers),
}
