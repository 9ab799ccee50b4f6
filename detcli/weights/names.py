"""What the layouts of several toolboxes have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from detcli.errors import CheckpointError

# Blocks of the third stage and convolutions of a block, which no two depths share.
DEPTH_BY_BLOCKS = {(2, 2): 18, (6, 2): 34, (6, 3): 50, (23, 3): 101}
VGG_STAGE_CONVS = (2, 2, 3, 3, 3)

# Pattern and replacement, as `re.sub` takes them.
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

RESNET_RULES: Rules = (
    (r"^conv1\.", "stem.conv."),
    (r"^[bg]n1\.", "stem.norm."),
    (r"^layer(\d)\.", lambda found: f"stages.{int(found[1]) - 1}."),
    (r"\.conv(\d)\.", r".conv\1.conv."),
    (r"\.[bg]n(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


@dataclass(frozen=True)
class SourceFacts:
    """What a public checkpoint's tensors say about its detector.

    detector: a key of DETECTORS; depth: of its ResNet, None for a VGG-16; class_names: None where
    the file does not name them; input_px: side of the images that SSD's levels are made for;
    variant: what else tells the shipped recipes of a detector apart.
    """

    detector: str
    depth: int | None
    num_classes: int
    class_names: tuple[str, ...] | None
    input_px: int | None = None
    variant: str | None = None


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did: source name -> name here, and notes for the user, a line each."""

    names: Mapping[str, str]
    notes: tuple[str, ...]


def resnet_key(key: str) -> str:
    """The name here of a key of torchvision's ResNet, whose names MMDetection uses as well."""
    return rewritten(key, RESNET_RULES)


def hrnet_key(key: str) -> str:
    """The name here of a key of HRNet, as its authors and MMDetection call it."""
    key = re.sub(r"^conv(\d)\.", lambda match: f"stem.{int(match[1]) - 1}.conv.", key)
    key = re.sub(r"^bn(\d)\.", lambda match: f"stem.{int(match[1]) - 1}.norm.", key)
    exchange = re.fullmatch(
        r"(transition\d\.\d+|stage\d\.\d+\.fuse_layers\.\d+\.\d+)((?:\.\d+)?)\.([01])\.(\w+)", key
    )
    if exchange is not None:  # pairs of a convolution and its norm
        part = ("conv", "norm")[int(exchange[3])]
        key = f"{exchange[1]}{exchange[2]}.{part}.{exchange[4]}"
    key = re.sub(r"^transition(\d)\.", lambda match: f"transitions.{int(match[1]) - 1}.", key)
    key = re.sub(r"^stage(\d)\.", lambda match: f"stages.{int(match[1]) - 2}.", key)
    key = re.sub(r"^layer1\.", "first.", key).replace(".fuse_layers.", ".fuse.")
    if key.startswith(("stem.", "transitions.")) or ".fuse." in key:
        return key
    return resnet_key(key)  # the parts of a block


def vgg_key(key: str) -> str:
    """The name here of a key of VGG-16's features, numbered as in torchvision, whose names
    MMDetection uses as well; fc6 and fc7 are 31 and 33. Other keys stay as they are."""
    match = re.fullmatch(r"(?:features\.)?(\d+)\.(weight|bias)", key)
    layers = vgg_layers()
    if match is None or int(match[1]) not in layers:
        return key
    return f"{layers[int(match[1])]}.{match[2]}"


def vgg_layers() -> dict[int, str]:
    """Number of each convolution among VGG-16's layers, ReLUs and pools counted too, to its name
    here."""
    names, number = {}, 0
    for stage, count in enumerate(VGG_STAGE_CONVS):
        for index in range(count):
            names[number] = f"stages.{stage}.{index}"
            number += 2  # its ReLU
        number += 1  # the pool
    return names | {number: "fc6", number + 2: "fc7"}


def resnet_depth(tensors: Mapping[str, Tensor], prefix: str, where: str) -> int:
    """Depth of the ResNet whose keys begin with `prefix`; CheckpointError if it is none of ours."""
    blocks = {name.split(".")[0] for name in _below(tensors, f"{prefix}layer3.")}
    convs = {name.split(".")[0] for name in _below(tensors, f"{prefix}layer3.0.conv")}
    convs.discard("2_offset")  # of MMDetection 1.x
    depth = DEPTH_BY_BLOCKS.get((len(blocks), len(convs)))
    if depth is None:
        raise CheckpointError(
            f"{where}: expected a ResNet-18, -34, -50 or -101 under {prefix}, got {len(blocks)} "
            f"blocks of {len(convs)} convolutions in its third stage"
        )
    return depth


def rewritten(key: str, rules: Rules) -> str:
    """`key` after all rules, one after the other."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def apply_rules(key: str, rules: Rules) -> str:
    """`key` after the first rule (pattern, replacement) that matches its beginning; else itself."""
    for pattern, replacement in rules:
        renamed, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return renamed
    return key


def outputs_of(value: Tensor, width: int, outputs: Sequence[int]) -> Tensor:
    """The rows of these of the `width` outputs of every anchor; value (A * width, ...)."""
    return value.view(-1, width, *value.shape[1:])[:, list(outputs)].flatten(0, 1)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
