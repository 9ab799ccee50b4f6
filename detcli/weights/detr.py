"""The layouts of DETR's checkpoints: facebookresearch/detr, transformers, and MMDetection 2.x and
3.x."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detcli.weights.files import PublicWeights, another_layout
from detcli.weights.names import (
    ConversionReport,
    Rules,
    SourceFacts,
    resnet_depth,
    resnet_key,
    rewritten,
)
from detcli.weights.report import copy_state
from detcli.weights.torchvision import COCO_WIDTH, coco_ids, known_classes

DETR_MARK = "input_proj.weight"
TRANSFORMERS_MARK = "model.input_projection.weight"
MMDETECTION_MARK = "bbox_head.reg_ffn.layers.0.0.weight"
POSITIONS = r"^(?:backbone\.1|model\.backbone\.position_embedding)\."
QUERIES = r"(?:query_embed|query_embedding|model\.query_position_embeddings)\.weight"

# Pattern and replacement, all one after the other, each anywhere in what the former ones left. No
# two of the toolboxes give one name to different things, so one table does for all of them.
LAYER_RULES: Rules = (
    (r"^(?:transformer\.|model\.)?(encoder|decoder)\.layers\.", r"transformer.\1."),
    # transformers
    (r"\.self_attn_layer_norm\.", ".residuals.0.norm."),
    (r"\.encoder_attn_layer_norm\.", ".residuals.1.norm."),
    (r"(\.encoder\.\d+)\.final_layer_norm\.", r"\1.residuals.1.norm."),
    (r"(\.decoder\.\d+)\.final_layer_norm\.", r"\1.residuals.2.norm."),
    (r"\.[qkv]_proj\.", ".project."),
    # MMDetection
    (r"\.attentions\.0\.", ".self_attn."),  # version 2
    (r"\.attentions\.1\.", ".cross_attn."),
    (r"_attn\.attn\.", "_attn."),
    (r"\.ffn(?:s\.0)?\.layers\.0\.0\.", ".feed_forward.expand."),
    (r"\.ffn(?:s\.0)?\.layers\.1\.", ".feed_forward.reduce."),
    (r"\.norms\.(\d)\.", r".residuals.\1.norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.(?:multihead_attn|cross_attn|encoder_attn)\.", ".cross_attention."),
    (r"\.in_proj_(weight|bias)$", r".project.\1"),
    (r"\.value_proj\.", ".value."),
    (r"\.out(?:put)?_proj\.", ".output."),
    (r"\.(?:linear1|fc1)\.", ".feed_forward.expand."),
    (r"\.(?:linear2|fc2)\.", ".feed_forward.reduce."),
)
RULES: Rules = (
    (r"^bbox_head\.(?:transformer\.)?(?=input_proj|query_embedding|encoder|decoder)", ""),
    (r"^(?:input_proj|model\.input_projection|neck\.convs\.0\.conv)\.", "projection."),
    (rf"^{QUERIES}$", "transformer.queries"),
    (r"^(?:class_embed|class_labels_classifier|bbox_head\.fc_cls)\.", "head.class_logits."),
    (r"^(?:bbox_embed|bbox_predictor)\.", "head.box."),
    (r"^bbox_head\.reg_ffn\.layers\.(0|1)(?:\.0)?\.", r"head.box.layers.\1."),
    (r"^bbox_head\.fc_reg\.", "head.box.layers.2."),
    (POSITIONS + r"row_embed(?:dings)?\.weight$", "positions.rows"),
    (POSITIONS + r"col(?:umn)?_embed(?:dings)?\.weight$", "positions.columns"),
    (r"^(?:transformer|model)\.(encoder|decoder)\.(?:layer)?norm\.", r"transformer.\1_norm."),
    (r"^decoder\.post_norm\.", "transformer.decoder_norm."),
    *LAYER_RULES,
    (r"\.norm1\.", ".residuals.0.norm."),
    (r"\.norm2\.", ".residuals.1.norm."),
    (r"\.norm3\.", ".residuals.2.norm."),
)
# What is before the names of the ResNet: of the authors, transformers and MMDetection.
BACKBONE = re.compile(
    r"(?:backbone\.0\.body|model\.backbone\.(?:conv_encoder\.)?model|backbone(?!\.\d))\."
)
# transformers' own ResNet, to torchvision's names, which its timm backbones have already.
RESNET_RULES: Rules = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda found: f"layer{int(found[1]) + 1}."),
    (r"\.layer\.(\d)\.convolution\.", lambda found: f".conv{int(found[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda found: f".bn{int(found[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
)


def recognise_detr(weights: PublicWeights, where: str) -> SourceFacts:
    """What DETR of its authors this is; CheckpointError when it is none."""
    if DETR_MARK not in weights.tensors or "class_embed.weight" not in weights.tensors:
        raise another_layout(where, "a DETR of facebookresearch/detr for boxes", weights.tensors)
    return detr_facts(weights, "class_embed.weight", where)


def convert_detr(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str = "the checkpoint"
) -> ConversionReport:
    """Copy tensors of any of these toolboxes into a DETR of the same architecture.

    Of the 91 outputs for COCO's ids the 80 of real classes are kept, unless the model has 91
    classes too. Raises CheckpointError, with the model unchanged, unless every tensor finds its
    place.
    """
    return convert_set(tensors, model, where, detr_key)


def detr_facts(weights: PublicWeights, logits: str, where: str) -> SourceFacts:
    """What DETR this is, by the name of its class head."""
    width = len(weights.tensors[logits]) - 1  # less no-object
    num_classes, class_names = known_classes(weights, width, width)
    pre_norm = any("encoder.norm." in name for name in weights.tensors)
    return SourceFacts(
        detector="detr",
        depth=resnet_depth_below(weights.tensors, where),
        num_classes=num_classes,
        class_names=class_names,
        variant=" with norms first" if pre_norm else None,
    )


def detr_key(key: str) -> str:
    """The name here of a key of a DETR; unknown ones are reported later."""
    return backbone_key(key) or rewritten(key, RULES)


def backbone_key(key: str) -> str | None:
    """The name here of a key of the ResNet; None for other keys."""
    found = BACKBONE.match(key)
    if found is None:
        return None
    return f"backbone.{resnet_key(rewritten(key[found.end() :], RESNET_RULES))}"


def convert_set(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str, rename: Callable[[str], str]
) -> ConversionReport:
    """Copy the tensors under the names that `rename` gives: projections of queries, keys and values
    one below the other, the classes that the model has, counters of frozen norms as they are."""
    names = {name: rename(name) for name in tensors}
    state = stacked_projections(tensors, names)
    own = model.state_dict()
    notes = select_classes(state, own)
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value)
    copy_state(model, state, where)
    return ConversionReport(names, notes)


def stacked_projections(
    tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors under their names here; those of transformers' q_proj, k_proj and v_proj, which
    have the same name, one below the other."""
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, own in names.items():
        found = re.search(r"\.([qkv])_proj\.\w+$", name)
        if found is None:
            state[own] = tensors[name]
        else:
            parts.setdefault(own, {})[found[1]] = tensors[name]
    for own, part in parts.items():
        state[own] = torch.cat([part[letter] for letter in "qkv" if letter in part])
    return state


def select_classes(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Keep the rows of COCO's 80 classes, and any after the 91 ids, where the model has only these;
    what was done, for the user."""
    selected = []
    for name, value in state.items():
        if ".class_logits." not in name or name not in own:
            continue
        extra = len(value) - COCO_WIDTH  # no-object
        if extra in (0, 1) and len(own[name]) == len(coco_ids()) + extra:
            rows = [*coco_ids(), *range(COCO_WIDTH, len(value))]
            state[name] = value[rows]
            selected.append(name)
    if not selected:
        return ()
    return (
        "class head: the 80 classes of COCO were taken out of 91 outputs; the other 11 are never "
        "an object's, and their probabilities are close to 0",
    )


def resnet_depth_below(tensors: Mapping[str, Tensor], where: str) -> int:
    """Depth of the ResNet; CheckpointError if it is none of ours."""
    below = {
        rewritten(name[found.end() :], RESNET_RULES): value
        for name, value in tensors.items()
        if (found := BACKBONE.match(name))
    }
    return resnet_depth(below, "", where)
