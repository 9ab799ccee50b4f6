"""Checkpoints of the transformers library: DetrForObjectDetection and
DeformableDetrForObjectDetection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.deformable_detr import TRANSFORMERS_MARK as DEFORMABLE_MARK
from detcli.weights.deformable_detr import convert_deformable_detr, deformable_facts
from detcli.weights.detr import TRANSFORMERS_MARK, convert_detr, detr_facts
from detcli.weights.files import PublicWeights, another_layout, read_weights
from detcli.weights.names import ConversionReport, SourceFacts

LENGTH_BYTES = 8  # of a safetensors file: length of its header, little-endian
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


def read_transformers(path: Path) -> PublicWeights:
    """The tensors of a .safetensors file, or of one of torch.save as `read_weights`.

    Raises CheckpointError when the file is missing, damaged, or no such file.
    """
    if path.suffix != ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content = bytearray(path.read_bytes())
    try:
        start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        header = json.loads(content[LENGTH_BYTES:start])
        tensors = {
            name: _tensor(content, start, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file") from error
    if not tensors:
        raise CheckpointError(f"{path}: a safetensors file without tensors, or half of one")
    return PublicWeights(tensors, None)


def recognise_transformers(weights: PublicWeights, where: str) -> SourceFacts:
    """What detector these are; CheckpointError when they are none of these."""
    if TRANSFORMERS_MARK in weights.tensors:
        return detr_facts(weights, "class_labels_classifier.weight", where)
    if DEFORMABLE_MARK in weights.tensors:
        return deformable_facts(weights, where)
    expected = "transformers' DetrForObjectDetection or DeformableDetrForObjectDetection"
    raise another_layout(where, expected, weights.tensors)


def convert_transformers(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of transformers into a detector of the same architecture; as `convert_detr`."""
    convert = convert_deformable_detr if DEFORMABLE_MARK in tensors else convert_detr
    return convert(tensors, model, where)


def _tensor(content: bytearray, start: int, entry: Mapping[str, Any]) -> Tensor:
    """One tensor of a file whose data begins at `start`."""
    first, last = entry["data_offsets"]
    shape: list[int] = entry["shape"]
    values = torch.frombuffer(content[start + first : start + last], dtype=DTYPES[entry["dtype"]])
    return values.reshape(shape).clone()
