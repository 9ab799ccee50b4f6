"""Read the tensors of a public checkpoint without running any code that it may hold."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detcli.errors import CheckpointError

# Where training tools put the weights beside optimiser state and the like.
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Ways in which reading a file that is no checkpoint, or half of one, fails.
READ_ERRORS = (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError)
ZIP_START = b"PK\x03\x04"
# Beginnings of names that together give a layout away; the first that fits.
LAYOUTS = (
    (("bbox_head.heatmap_head.",), "MMDetection's CenterNet"),
    (("bbox_head.reg_ffn.", "backbone.layer"), "MMDetection's DETR"),
    (("bbox_head.", "backbone.layer"), "an MMDetection one-stage detector"),
    (("roi_head.", "rpn_head."), "an MMDetection two-stage detector"),
    (("roi_heads.mask_head.", "rpn."), "torchvision's Mask R-CNN"),
    (("roi_heads.keypoint_head.", "rpn."), "torchvision's Keypoint R-CNN"),
    (("roi_heads.", "rpn."), "a torchvision two-stage detector"),
    (("backbone.body.", "head."), "a torchvision one-stage detector"),
    (("bbox_head.", "backbone.features."), "MMDetection's SSD"),
    (("head.", "backbone.features.0.0."), "torchvision's SSDlite"),
    (("head.", "backbone.features."), "torchvision's SSD"),
    (("backbone.stages.", "head."), "a checkpoint of detcli itself"),
    (("model.level_embed", "class_embed."), "transformers' Deformable DETR"),
    (("model.encoder.layers.", "class_labels_classifier."), "transformers' DETR"),
    (("transformer.level_embed", "class_embed."), "Deformable DETR"),
    (("transformer.encoder.", "class_embed."), "DETR"),
    (("hm.", "wh."), "xingyizhou/CenterNet"),
    (("down1.", "head."), "the YOLOv4 of Tianxiaomo/pytorch-YOLOv4"),
    (("conv1.", "layer1.", "fc."), "a ResNet classifier, not a detector"),
    (("conv1.", "layer1."), "a ResNet without a detector"),
    (("features.", "classifier."), "an image classifier, not a detector"),
    (("encoder.layers.", "heads.head."), "an image classifier, not a detector"),
)


class PublicWeights(NamedTuple):
    """What a public checkpoint holds: its tensors by name, and its class names if it has them."""

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; see `read_weights`."""
    return read_weights(path).tensors


def read_weights(path: Path) -> PublicWeights:
    """Tensors and class names of a checkpoint file, on the CPU.

    Raises CheckpointError when the file is missing, damaged, no checkpoint, or needs code to be
    run: only tensors and plain values are read.
    """
    content = load_safely(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors, got {type(content).__name__}"
        )
    state = next((content[name] for name in WRAPPERS if _is_mapping(content.get(name))), content)
    tensors = {
        str(name).removeprefix("module."): value  # left behind by (distributed) data parallel
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "none"
        raise CheckpointError(f"{path}: holds no tensors by name; its keys are {keys}")
    return PublicWeights(tensors, _class_names(content))


def looks_like(tensors: Mapping[str, Tensor]) -> str:
    """In words, whose layout these names are."""
    names = list(tensors)
    for prefixes, words in LAYOUTS:
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return words
    return f"something else ({len(names)} tensors: {', '.join(names[:3])}, ...)"


def another_layout(where: str, expected: str, tensors: Mapping[str, Tensor]) -> CheckpointError:
    """The error that these tensors are of another layout than the expected one."""
    return CheckpointError(
        f"{where}: expected {expected}, but this looks like {looks_like(tensors)}"
    )


def load_safely(path: Path) -> Any:
    """The content of a file that torch.save wrote, tensors and plain values only, on the CPU.

    Raises CheckpointError when the file is missing, damaged, no such file, or needs code to be run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():  # about unusual pickles: the error below says it better
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is not None:
            raise CheckpointError(
                f"{path}: holds a Python object ({culprit[1]}) and not only tensors; detcli runs "
                "no code from a checkpoint: save its state dict alone"
            ) from error
        raise CheckpointError(f"{path}: not a checkpoint that torch.load can read") from error
    except (*READ_ERRORS, OSError) as error:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: an empty file") from error
        whole = "damaged, probably truncated" if zipped(path) else "not a complete torch.save file"
        raise CheckpointError(f"{path}: {whole}; download or copy it again") from error


def zipped(path: Path) -> bool:
    """Whether a file begins like those of torch.save, which are zip archives."""
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _class_names(content: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """MMDetection keeps them in `meta`, under names that changed between versions."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    for holder in (inner if isinstance(inner, Mapping) else {}, meta):
        for name in ("classes", "CLASSES"):
            names = holder.get(name)
            if isinstance(names, list | tuple) and all(isinstance(word, str) for word in names):
                return tuple(names)
    return None
