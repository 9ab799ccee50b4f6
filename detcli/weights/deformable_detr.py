"""The layouts of Deformable DETR's checkpoints: fundamentalvision/Deformable-DETR, transformers,
and MMDetection 3.x."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.detr import (
    DETR_BACKBONE,
    LAYER_RULES,
    MMDETECTION_BACKBONE,
    MMDETECTION_LAYER_RULES,
    TRANSFORMERS_BACKBONE,
    TRANSFORMERS_LAYER_RULES,
    backbone_key,
    class_names_of,
    convert_set,
    num_classes_of,
    resnet_depth_below,
    rewritten,
)
from detcli.weights.files import PublicWeights, looks_like
from detcli.weights.names import ConversionReport, SourceFacts

MARK = "transformer.level_embed"
TRANSFORMERS_MARK = "model.level_embed"
MMDETECTION_MARK = "level_embed"
# Heads also stand in the decoder, where these layers use them.
COPIES = re.compile(r"(?:transformer|model)\.decoder\.(?:class_embed|bbox_embed)\.")
HEAD = re.compile(r"transformer\.heads\.(\d+)\.(.+)")

ATTENTION_RULES = ((r"\.value_proj\.", ".value."), (r"\.output_proj\.", ".output."))
HEAD_RULES = (
    (r"^class_embed\.(\d+)\.", r"transformer.heads.\1.class_logits."),
    (r"^bbox_embed\.(\d+)\.", r"transformer.heads.\1.box."),
)
RULES = (
    (r"^input_proj\.", "projections."),
    *HEAD_RULES,
    (r"^query_embed\.weight$", "transformer.queries.codes_and_starts"),
    (r"^transformer\.level_embed$", "transformer.level_codes"),
    (r"^transformer\.reference_points\.", "transformer.queries.reference_points."),
    (r"^transformer\.enc_output\.", "transformer.queries.project."),
    (r"^transformer\.enc_output_norm\.", "transformer.queries.norm."),
    (r"^transformer\.pos_trans\.", "transformer.queries.codes."),
    (r"^transformer\.pos_trans_norm\.", "transformer.queries.codes_norm."),
    *ATTENTION_RULES,
    *LAYER_RULES,
    # Norms are numbered by what was there first, which in the decoder is the attention to the maps.
    (r"(\.encoder\.\d+)\.norm1\.", r"\1.residuals.0.norm."),
    (r"(\.encoder\.\d+)\.norm2\.", r"\1.residuals.1.norm."),
    (r"(\.decoder\.\d+)\.norm2\.", r"\1.residuals.0.norm."),
    (r"(\.decoder\.\d+)\.norm1\.", r"\1.residuals.1.norm."),
    (r"(\.decoder\.\d+)\.norm3\.", r"\1.residuals.2.norm."),
)
TRANSFORMERS_RULES = (
    (r"^model\.input_proj\.", "projections."),
    *HEAD_RULES,
    (r"^model\.query_position_embeddings\.weight$", "transformer.queries.codes_and_starts"),
    (r"^model\.level_embed$", "transformer.level_codes"),
    (r"^model\.reference_points\.", "transformer.queries.reference_points."),
    (r"^model\.enc_output\.", "transformer.queries.project."),
    (r"^model\.enc_output_norm\.", "transformer.queries.norm."),
    (r"^model\.pos_trans\.", "transformer.queries.codes."),
    (r"^model\.pos_trans_norm\.", "transformer.queries.codes_norm."),
    *ATTENTION_RULES,
    *TRANSFORMERS_LAYER_RULES,
)
MMDETECTION_RULES = (
    (r"^neck\.convs\.(\d+)\.conv\.", r"projections.\1.0."),
    (r"^neck\.convs\.(\d+)\.gn\.", r"projections.\1.1."),
    (r"^neck\.extra_convs\.(\d+)\.conv\.", r"projections.extra\1.0."),
    (r"^neck\.extra_convs\.(\d+)\.gn\.", r"projections.extra\1.1."),
    (r"^query_embedding\.weight$", "transformer.queries.codes_and_starts"),
    (r"^level_embed$", "transformer.level_codes"),
    (r"^reference_points_fc\.", "transformer.queries.reference_points."),
    (r"^memory_trans_fc\.", "transformer.queries.project."),
    (r"^memory_trans_norm\.", "transformer.queries.norm."),
    (r"^pos_trans_fc\.", "transformer.queries.codes."),
    (r"^pos_trans_norm\.", "transformer.queries.codes_norm."),
    (r"^bbox_head\.cls_branches\.(\d+)\.", r"transformer.heads.\1.class_logits."),
    (r"^bbox_head\.reg_branches\.(\d+)\.0\.", r"transformer.heads.\1.box.layers.0."),
    (r"^bbox_head\.reg_branches\.(\d+)\.2\.", r"transformer.heads.\1.box.layers.1."),
    (r"^bbox_head\.reg_branches\.(\d+)\.4\.", r"transformer.heads.\1.box.layers.2."),
    *ATTENTION_RULES,
    *MMDETECTION_LAYER_RULES,
)


def recognise_deformable_detr(weights: PublicWeights, where: str) -> SourceFacts:
    """What Deformable DETR of its authors this is; CheckpointError when it is none."""
    if MARK not in weights.tensors or "class_embed.0.weight" not in weights.tensors:
        raise CheckpointError(
            f"{where}: expected a checkpoint of fundamentalvision/Deformable-DETR, but this looks "
            f"like {looks_like(weights.tensors)}"
        )
    return _facts(weights, "class_embed.", DETR_BACKBONE, "transformer.enc_output.weight", where)


def transformers_deformable_facts(weights: PublicWeights, where: str) -> SourceFacts:
    """What Deformable DETR of transformers this is."""
    return _facts(weights, "class_embed.", TRANSFORMERS_BACKBONE, "model.enc_output.weight", where)


def mmdetection_deformable_facts(weights: PublicWeights, where: str) -> SourceFacts:
    """What Deformable DETR of MMDetection this is."""
    return _facts(
        weights, "bbox_head.cls_branches.", MMDETECTION_BACKBONE, "memory_trans_fc.weight", where
    )


def convert_deformable_detr(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of fundamentalvision/Deformable-DETR into a detector of the same architecture.

    Classes as in `convert_detr`. Raises CheckpointError, with the model unchanged, unless every
    tensor finds its place.
    """
    return convert_deformable(tensors, model, where, deformable_detr_key)


def convert_deformable(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str, rename: Callable[[str], str]
) -> ConversionReport:
    """As `convert_set`; heads that all layers share stand there once for each layer, and those that
    the decoder uses stand in it, too."""
    heads = len(model.transformer.heads)  # type: ignore[union-attr,arg-type]
    names = {name: rename(COPIES.sub(_original, name)) for name in tensors}
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


def deformable_detr_key(key: str) -> str:
    """The name here of a key of fundamentalvision/Deformable-DETR."""
    return backbone_key(key, DETR_BACKBONE) or rewritten(key, RULES)


def transformers_deformable_key(key: str) -> str:
    """The name here of a key of transformers' DeformableDetrForObjectDetection."""
    return backbone_key(key, TRANSFORMERS_BACKBONE) or rewritten(key, TRANSFORMERS_RULES)


def mmdetection_deformable_key(key: str) -> str:
    """The name here of a key of MMDetection's Deformable DETR with C3, C4 and C5."""
    own = backbone_key(key, MMDETECTION_BACKBONE) or rewritten(key, MMDETECTION_RULES)
    return re.sub(
        r"projections\.extra(\d+)\.", lambda found: f"projections.{int(found[1]) + 3}.", own
    )


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


def _facts(
    weights: PublicWeights, heads: str, backbone: str, two_stage_mark: str, where: str
) -> SourceFacts:
    """The facts by the prefix of the class heads and of the backbone."""
    tensors = weights.tensors
    logits = [name for name in tensors if name.startswith(heads) and name.endswith(".weight")]
    width = len(tensors[logits[0]])
    first, last = tensors[logits[0]], tensors[logits[-1]]
    two_stage = two_stage_mark in tensors
    variant = "_two_stage" if two_stage else None if torch.equal(first, last) else "_refine"
    return SourceFacts(
        detector="deformable_detr",
        depth=resnet_depth_below(tensors, backbone, where),
        num_classes=num_classes_of(width),
        class_names=class_names_of(weights, width),
        variant=variant,
    )
