"""YOLOv4 in Darknet's own files (.weights), and in the names of Tianxiaomo/pytorch-YOLOv4.

A .weights file is a header and then nothing but float32 numbers: for each convolution, in the
order of the .cfg file, shift, scale, mean and variance of its norm, or its bias where it has none,
and then its kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.files import PublicWeights, another_layout, zipped
from detcli.weights.names import ConversionReport, SourceFacts
from detcli.weights.report import copy_renamed, copy_state

NUM_BLOCKS = (1, 2, 8, 8, 4)  # of the backbone's stages
NORM_PARTS = ("bias", "weight", "running_mean", "running_var")  # in the order of the file
HEADER_INTS = 3  # major, minor, revision; then the number of images seen
LONG_COUNT_SINCE = 2  # ten times major plus minor from which that number has 64 bits
FLAT = "darknet"  # all numbers of a file, as one tensor
MARK = "down1.conv1.conv.0.weight"
LAST = "head.conv18.conv.0.weight"
BOX_OUTPUTS = 5  # of an anchor: x, y, w, h and objectness
# Of YOLOv4: the kernels and biases of the three predictions, for each output of an anchor, and all
# other numbers.
NUMBERS_PER_OUTPUT = 3 * (256 + 512 + 1024 + 3)
OTHER_NUMBERS = 63_971_680
PUBLIC = re.compile(r"((?:down\d|neck|neek|head)\.\S+?)\.conv\.([01])\.(\w+)")


def read_darknet(path: Path) -> PublicWeights:
    """All numbers of a .weights file as one tensor named "darknet".

    Raises CheckpointError when the file is missing or none of Darknet's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    raw = path.read_bytes()
    head = np.frombuffer(raw[: HEADER_INTS * 4], "<i4") if len(raw) >= HEADER_INTS * 4 else None
    if head is None or not (0 <= head[0] < 10 and 0 <= head[1] < 100 and 0 <= head[2] < 1000):
        found = "is a file of torch.save" if zipped(path) else "has no header"
        raise CheckpointError(f"{path}: expected a .weights file of Darknet, but it {found}")
    count_bytes = 8 if head[0] * 10 + head[1] >= LONG_COUNT_SINCE else 4
    body = raw[HEADER_INTS * 4 + count_bytes :]
    if not body or len(body) % 4:
        raise CheckpointError(f"{path}: damaged: {len(body)} bytes after the header are no numbers")
    return PublicWeights({FLAT: torch.from_numpy(np.frombuffer(body, "<f4").copy())}, None)


def recognise_darknet(weights: PublicWeights, where: str) -> SourceFacts:
    """What a YOLOv4 of these many numbers is; CheckpointError when there is none.

    Only the last convolution of each level depends on the number of classes.
    """
    total = len(weights.tensors[FLAT])
    outputs, left = divmod(total - OTHER_NUMBERS, NUMBERS_PER_OUTPUT)
    if left or outputs <= BOX_OUTPUTS:
        wanted = OTHER_NUMBERS + NUMBERS_PER_OUTPUT * (BOX_OUTPUTS + 80)
        raise CheckpointError(
            f"{where}: expected YOLOv4, which has {wanted} numbers for 80 classes and "
            f"{NUMBERS_PER_OUTPUT} for each further one, got {total}"
        )
    return SourceFacts("yolov4", None, outputs - BOX_OUTPUTS, None)


def convert_darknet(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy the numbers of a .weights file into YOLOv4.

    Raises CheckpointError, with the model unchanged, unless there are just as many as it has.
    """
    own = model.state_dict()
    layers = [layer for _, layer in layer_names()]
    state = _unpack(tensors[FLAT], own, layers, where, whole=True)
    copy_state(model, state, where)
    return ConversionReport({name: name for name in state}, ())


def backbone_state(path: Path, backbone: nn.Module) -> dict[str, Tensor]:
    """The first numbers of a .weights file as the tensors of a CSPDarknet-53.

    Raises CheckpointError when there are too few of them, and as `read_darknet`.
    """
    prefix = "backbone."
    layers = [own.removeprefix(prefix) for _, own in layer_names() if own.startswith(prefix)]
    flat = read_darknet(path).tensors[FLAT]
    return _unpack(flat, backbone.state_dict(), layers, str(path), whole=False)


def recognise_tianxiaomo(weights: PublicWeights, where: str) -> SourceFacts:
    """What YOLOv4 this is; CheckpointError when it has not the names of that repository."""
    tensors = weights.tensors
    if MARK not in tensors or LAST not in tensors:
        raise another_layout(where, "the YOLOv4 of Tianxiaomo/pytorch-YOLOv4", tensors)
    outputs, num_anchors = len(tensors[LAST]), 3
    return SourceFacts("yolov4", None, outputs // num_anchors - BOX_OUTPUTS, weights.class_names)


def convert_tianxiaomo(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of Tianxiaomo/pytorch-YOLOv4 into a YOLOv4 of the same size.

    Raises CheckpointError, with the model unchanged, unless every tensor finds its place.
    """
    return copy_renamed(tensors, model, where, tianxiaomo_key)


def tianxiaomo_key(key: str) -> str:
    """The name here of a key of Tianxiaomo/pytorch-YOLOv4; one that it has not stays as it is."""
    match = PUBLIC.fullmatch(key)
    own = dict(layer_names()).get(match[1].replace("neek", "neck")) if match else None
    if match is None or own is None:
        return key
    if own.startswith("head.prediction."):
        return f"{own}.{match[3]}"
    return f"{own}.{'conv' if match[2] == '0' else 'norm'}.{match[3]}"


def layer_names() -> list[tuple[str, str]]:
    """The convolutions of YOLOv4 in Darknet's order: the name in Tianxiaomo's code, and here."""
    pairs = [("down1.conv1", "backbone.stem")]
    for stage, num_blocks in enumerate(NUM_BLOCKS):
        pairs += _stage_names(stage, num_blocks)
    neck = [*(f"before.{i}" for i in range(3)), *(f"after.{i}" for i in range(3))]
    for step in range(2):
        neck += [f"reduce.{step}", f"lateral.{step}", *(f"blocks.{step}.{i}" for i in range(5))]
    head = ["hidden.0", "prediction.0"]
    for step in range(2):
        head += [f"down.{step}", *(f"blocks.{step}.{i}" for i in range(5))]
        head += [f"hidden.{step + 1}", f"prediction.{step + 1}"]
    for part, layers in (("neck", neck), ("head", head)):
        pairs += [
            (f"{part}.conv{number}", f"{part}.{own}") for number, own in enumerate(layers, start=1)
        ]
    return pairs


def _stage_names(stage: int, num_blocks: int) -> Iterator[tuple[str, str]]:
    """As `layer_names`, of one stage of the backbone, whose first one has names of its own."""
    if stage == 0:
        parts = ("down", "skip", "enter", "blocks.0.reduce", "blocks.0.expand", "leave", "merge")
        for number, part in enumerate(parts, start=2):
            yield f"down1.conv{number}", f"backbone.stages.0.{part}"
        return
    public, own = f"down{stage + 1}", f"backbone.stages.{stage}"
    for number, part in enumerate(("down", "skip", "enter"), start=1):
        yield f"{public}.conv{number}", f"{own}.{part}"
    for block in range(num_blocks):
        for place, part in enumerate(("reduce", "expand")):
            yield f"{public}.resblock.module_list.{block}.{place}", f"{own}.blocks.{block}.{part}"
    for number, part in ((4, "leave"), (5, "merge")):
        yield f"{public}.conv{number}", f"{own}.{part}"


def _unpack(
    flat: Tensor, own: Mapping[str, Tensor], layers: list[str], where: str, *, whole: bool
) -> dict[str, Tensor]:
    """The tensors of these layers, with the shapes of `own`, from the numbers of a file; whole:
    none may be left over."""
    state: dict[str, Tensor] = {}
    start = 0
    for layer in layers:
        has_norm = f"{layer}.norm.weight" in own
        parts = [f"norm.{part}" for part in NORM_PARTS] + ["conv.weight"]
        for part in parts if has_norm else ["bias", "weight"]:
            name = f"{layer}.{part}"
            end = start + own[name].numel()
            if end > len(flat):
                raise CheckpointError(f"{where}: ends at {name}, after {len(flat)} numbers")
            state[name] = flat[start:end].view(own[name].shape)
            start = end
        if has_norm:  # Darknet does not count; nothing depends on it
            counter = f"{layer}.norm.num_batches_tracked"
            state[counter] = own[counter]
    if whole and start != len(flat):
        raise CheckpointError(f"{where}: {len(flat) - start} numbers are left over")
    return state
