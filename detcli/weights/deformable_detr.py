"""The layouts of Deformable DETR's checkpoints: fundamentalvision/Deformable-DETR, transformers,
and MMDetection 3.x."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.detr import LAYER_RULES, QUERIES, backbone_key, convert_set, resnet_depth_below
from detcli.weights.files import PublicWeights, another_layout
from detcli.weights.names import ConversionReport, Rules, SourceFacts, rewritten
from detcli.weights.torchvision import known_classes

MARK = "transformer.level_embed"
TRANSFORMERS_MARK = "model.level_embed"
MMDETECTION_MARK = "level_embed"
TWO_STAGE_MARKS = (
    "transformer.enc_output.weight",
    "model.enc_output.weight",
    "memory_trans_fc.weight",
)
CLASS_HEAD = re.compile(r"(?:class_embed|bbox_head\.cls_branches)\..*weight")
# Heads also stand in the decoder, where these layers use them.
COPIES = re.compile(r"(?:transformer|model)\.decoder\.(?:class_embed|bbox_embed)\.")
HEAD = re.compile(r"transformer\.heads\.(\d+)\.(.+)")

# As in detr.py: for all three toolboxes. MMDetection counts levels that the backbone does not have
# on their own, beginning with the fourth, and ReLUs among the layers of a head.
RULES: Rules = (
    (r"^(?:model\.)?input_proj\.", "projections."),
    (r"^neck\.extra_convs\.(\d+)\.", lambda found: f"neck.convs.{int(found[1]) + 3}."),
    (r"^neck\.convs\.(\d+)\.conv\.", r"projections.\1.0."),
    (r"^neck\.convs\.(\d+)\.gn\.", r"projections.\1.1."),
    (r"^(?:class_embed|bbox_head\.cls_branches)\.(\d+)\.", r"transformer.heads.\1.class_logits."),
    (r"^bbox_embed\.(\d+)\.", r"transformer.heads.\1.box."),
    (
        r"^bbox_head\.reg_branches\.(\d+)\.([024])\.",
        lambda found: f"transformer.heads.{found[1]}.box.layers.{int(found[2]) // 2}.",
    ),
    (rf"^{QUERIES}$", "transformer.queries.codes_and_starts"),
    # Of the authors and transformers, then of MMDetection.
    (r"^(?:transformer\.|model\.)?level_embed$", "transformer.level_codes"),
    (r"^(?:transformer|model)\.(?=reference_points|enc_output|pos_trans)", ""),
    (r"^reference_points(?:_fc)?\.", "transformer.queries.reference_points."),
    (r"^(?:enc_output|memory_trans_fc)\.", "transformer.queries.project."),
    (r"^(?:enc_output|memory_trans)_norm\.", "transformer.queries.norm."),
    (r"^pos_trans(?:_fc)?\.", "transformer.queries.codes."),
    (r"^pos_trans_norm\.", "transformer.queries.codes_norm."),
    *LAYER_RULES,
    # Norms are numbered by what was there first, which in the decoder is the attention to the maps.
    (r"(\.encoder\.\d+)\.norm1\.", r"\1.residuals.0.norm."),
    (r"(\.encoder\.\d+)\.norm2\.", r"\1.residuals.1.norm."),
    (r"(\.decoder\.\d+)\.norm2\.", r"\1.residuals.0.norm."),
    (r"(\.decoder\.\d+)\.norm1\.", r"\1.residuals.1.norm."),
    (r"(\.decoder\.\d+)\.norm3\.", r"\1.residuals.2.norm."),
)


def recognise_deformable_detr(weights: PublicWeights, where: str) -> SourceFacts:
    """What Deformable DETR of its authors this is; CheckpointError when it is none."""
    if MARK not in weights.tensors or "class_embed.0.weight" not in weights.tensors:
        expected = "a checkpoint of fundamentalvision/Deformable-DETR"
        raise another_layout(where, expected, weights.tensors)
    return deformable_facts(weights, where)


def deformable_facts(weights: PublicWeights, where: str) -> SourceFacts:
    """What Deformable DETR this is, in any of the three layouts."""
    tensors = weights.tensors
    logits = [name for name in tensors if CLASS_HEAD.fullmatch(name)]
    width = len(tensors[logits[0]])
    num_classes, class_names = known_classes(weights, width, width)
    refines = not torch.equal(tensors[logits[0]], tensors[logits[-1]])
    two_stage = any(mark in tensors for mark in TWO_STAGE_MARKS)
    return SourceFacts(
        detector="deformable_detr",
        depth=resnet_depth_below(tensors, where),
        num_classes=num_classes,
        class_names=class_names,
        variant="_two_stage" if two_stage else "_refine" if refines else None,
    )


def convert_deformable_detr(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of any of the three toolboxes into a detector of the same architecture.

    Classes as in `convert_detr`. Heads that all layers share stand there once for each layer, and
    those that the decoder uses stand in it, too. Raises CheckpointError, with the model unchanged,
    unless every tensor finds its place.
    """
    heads = len(model.transformer.heads)  # type: ignore[union-attr,arg-type]
    names = {name: _key(COPIES.sub(_original, name)) for name in tensors}
    kept: dict[str, Tensor] = {}
    for name, own in names.items():
        found = HEAD.fullmatch(own)
        if found is not None and heads == 1 and int(found[1]) > 0:
            shared = f"transformer.heads.0.{found[2]}"
            names[name] = shared
            if not torch.equal(tensors[name], tensors[_first(names, shared)]):
                raise CheckpointError(
                    f"{where}: {name} is a head of its own, but the model's layers share one; set "
                    "model.refine: true"
                )
        elif not COPIES.match(name):
            kept[name] = tensors[name]
    report = convert_set(
        _with_biases(kept, names, model), model, where, lambda name: names.get(name, name)
    )
    return ConversionReport(names, report.notes)


def _key(key: str) -> str:
    """The name here of a key of a Deformable DETR."""
    return backbone_key(key) or rewritten(key, RULES)


def _original(found: re.Match[str]) -> str:
    return found[0].split("decoder.")[1]


def _first(names: Mapping[str, str], own: str) -> str:
    """The first of the names there of a tensor here."""
    return next(name for name, here in names.items() if here == own)


def _with_biases(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], model: nn.Module
) -> dict[str, Tensor]:
    """With zeros for biases of the projections, which MMDetection's do not have."""
    there = {names[name] for name in tensors}
    missing = {
        name: torch.zeros_like(value)
        for name, value in model.state_dict().items()
        if name.startswith("projections.") and name.endswith(".0.bias") and name not in there
    }
    return {**tensors, **missing}
