"""MMDetection's DETR and Deformable DETR: every name of their modules finds its place.

The names are those that the modules of version 3 (mmdet/models/detectors/detr.py and
deformable_detr.py, mmcv's attention and feed-forward bricks) register; there is no checkpoint here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from detcli.weights import PublicWeights, convert_mmdetection, recognise_mmdetection
from tests.models.specs import TWO_LAYERS, detector

FFN = {"expand": "ffn.layers.0.0", "reduce": "ffn.layers.1"}
VARIANTS = {
    "plain": {},
    "refine": {"refine": True},
    "two_stage": {"refine": True, "two_stage": True},
}


def attention_names(there: str, own: str) -> Iterator[tuple[str, str]]:
    """torch's attention inside mmcv's wrapper."""
    for kind in ("weight", "bias"):
        yield f"{there}.attn.in_proj_{kind}", f"{own}.project.{kind}"
        yield f"{there}.attn.out_proj.{kind}", f"{own}.output.{kind}"


def deformable_names(there: str, own: str) -> Iterator[tuple[str, str]]:
    names = {"value_proj": "value", "output_proj": "output"}
    for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
        for kind in ("weight", "bias"):
            yield f"{there}.{part}.{kind}", f"{own}.{names.get(part, part)}.{kind}"


def layer_names(coder: str, number: int, *, deformable: bool) -> Iterator[tuple[str, str]]:
    there, own = f"{coder}.layers.{number}", f"transformer.{coder}.{number}"
    seen = deformable_names if deformable else attention_names
    if coder == "encoder":
        yield from seen(f"{there}.self_attn", f"{own}.attention")
    else:
        yield from attention_names(f"{there}.self_attn", f"{own}.attention")
        yield from seen(f"{there}.cross_attn", f"{own}.cross_attention")
    for kind in ("weight", "bias"):
        for part, name in FFN.items():
            yield f"{there}.{name}.{kind}", f"{own}.feed_forward.{part}.{kind}"
        for norm in range(2 if coder == "encoder" else 3):
            yield f"{there}.norms.{norm}.{kind}", f"{own}.residuals.{norm}.norm.{kind}"


def detr_names() -> Iterator[tuple[str, str]]:
    for coder in ("encoder", "decoder"):
        for number in range(2):
            yield from layer_names(coder, number, deformable=False)
    yield "query_embedding.weight", "transformer.queries"
    pairs = {
        "neck.convs.0.conv": "projection",
        "decoder.post_norm": "transformer.decoder_norm",
        "bbox_head.fc_cls": "head.class_logits",
        "bbox_head.reg_ffn.layers.0.0": "head.box.layers.0",
        "bbox_head.reg_ffn.layers.1": "head.box.layers.1",
        "bbox_head.fc_reg": "head.box.layers.2",
    }
    for there, own in pairs.items():
        for kind in ("weight", "bias"):
            yield f"{there}.{kind}", f"{own}.{kind}"


def deformable_detr_names(variant: str) -> Iterator[tuple[str, str]]:
    for coder in ("encoder", "decoder"):
        for number in range(2):
            yield from layer_names(coder, number, deformable=True)
    yield "level_embed", "transformer.level_codes"
    pairs = {}
    for level in range(4):  # no biases before the norms; the last level is a convolution of C5
        there = f"neck.convs.{level}" if level < 3 else "neck.extra_convs.0"
        yield f"{there}.conv.weight", f"projections.{level}.0.weight"
        pairs[f"{there}.gn"] = f"projections.{level}.1"
    if variant == "two_stage":
        pairs |= {
            "memory_trans_fc": "transformer.queries.project",
            "memory_trans_norm": "transformer.queries.norm",
            "pos_trans_fc": "transformer.queries.codes",
            "pos_trans_norm": "transformer.queries.codes_norm",
        }
    else:
        yield "query_embedding.weight", "transformer.queries.codes_and_starts"
        pairs["reference_points_fc"] = "transformer.queries.reference_points"
    for layer in range(3 if variant == "two_stage" else 2):
        own = f"transformer.heads.{0 if variant == 'plain' else layer}"
        pairs[f"bbox_head.cls_branches.{layer}"] = f"{own}.class_logits"
        for number in range(3):  # ReLUs lie between
            pairs[f"bbox_head.reg_branches.{layer}.{2 * number}"] = f"{own}.box.layers.{number}"
    for there, own in pairs.items():
        for kind in ("weight", "bias"):
            yield f"{there}.{kind}", f"{own}.{kind}"


def backbone_names(model: nn.Module) -> Iterator[tuple[str, str]]:
    """torchvision's names."""
    for own in model.backbone.state_dict():  # type: ignore[union-attr]
        there = re.sub(r"^stem\.conv\.", "conv1.", own)
        there = re.sub(r"^stem\.norm\.", "bn1.", there)
        there = re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", there)
        there = re.sub(r"\.conv(\d)\.conv\.", r".conv\1.", there)
        there = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", there)
        there = there.replace(".shortcut.conv.", ".downsample.0.")
        yield f"backbone.{there.replace('.shortcut.norm.', '.downsample.1.')}", f"backbone.{own}"


def state_of(
    model: nn.Module, names: Iterator[tuple[str, str]]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Random numbers under their names; the same ones where a tensor here has several there."""
    pairs = dict(backbone_names(model)) | dict(names)
    shapes = model.state_dict()
    generator = torch.Generator().manual_seed(0)
    by_own = {  # norms count their batches in whole numbers
        own: torch.randn(shapes[own].shape, generator=generator).to(shapes[own].dtype)
        for own in sorted(set(pairs.values()))
    }
    return pairs, {there: by_own[own] for there, own in pairs.items()}


@pytest.mark.parametrize("variant", ["detr", *VARIANTS])
def test_every_name_finds_its_place(variant: str) -> None:
    name = "detr" if variant == "detr" else "deformable_detr"
    model = detector(name, TWO_LAYERS, VARIANTS.get(variant, {}), num_classes=5)
    names = detr_names() if variant == "detr" else deformable_detr_names(variant)
    pairs, state = state_of(model, names)
    facts = recognise_mmdetection(PublicWeights(state, None), "memory")
    assert (facts.detector, facts.depth) == (name, 18)
    assert facts.variant == (None if variant in ("detr", "plain") else f"_{variant}")
    report = convert_mmdetection(state, model)
    assert dict(report.names) == pairs
    mine = model.state_dict()
    for there, own in pairs.items():
        assert torch.equal(mine[own], state[there]), there
    left = set(mine) - set(pairs.values())
    assert all(re.fullmatch(r"projections\.\d\.0\.bias", own) for own in left)
    assert all(not mine[own].any() for own in left)
