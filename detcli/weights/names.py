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
# A rule for `apply_rules`, where all below "backbone." is such a ResNet.
RESNET_BACKBONE = (r"backbone\.(.+)", lambda found: f"backbone.{resnet_key(found[1])}")
TORCHVISION_ON_RESNET: Rules = (
    (r"backbone\.body\.(.+)", lambda found: f"backbone.{resnet_key(found[1])}"),
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?(weight|bias)", r"neck.lateral.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?(weight|bias)", r"neck.output.\1.\2"),
)
# Pairs of a convolution and its norm, between the streams of an HRNet.
HRNET_EXCHANGE = r"((?:transition\d\.\d+|stage\d\.\d+\.fuse_layers\.\d+\.\d+)(?:\.\d+)?)"
HRNET_RULES: Rules = (
    (r"^conv(\d)\.", lambda found: f"stem.{int(found[1]) - 1}.conv."),
    (r"^bn(\d)\.", lambda found: f"stem.{int(found[1]) - 1}.norm."),
    (rf"^{HRNET_EXCHANGE}\.0\.(\w+)$", r"\1.conv.\2"),
    (rf"^{HRNET_EXCHANGE}\.1\.(\w+)$", r"\1.norm.\2"),
    (r"^transition(\d)\.", lambda found: f"transitions.{int(found[1]) - 1}."),
    (r"^stage(\d)\.", lambda found: f"stages.{int(found[1]) - 2}."),
    (r"^layer1\.", "first."),
    (r"\.fuse_layers\.", ".fuse."),
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
    key = rewritten(key, HRNET_RULES)
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
