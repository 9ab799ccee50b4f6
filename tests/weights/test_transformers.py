"""transformers' DETR with random weights: the same numbers after the importer. The library is no
dependency of the project: without it these tests are skipped."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detcli.errors import CheckpointError
from detcli.weights import (
    PublicWeights,
    convert_transformers,
    read_transformers,
    recognise_transformers,
)
from tests.models.specs import TWO_LAYERS, detector, target
from tests.weights.transformers_peer import deformable_config, detr_config, transformers

SIZES = [(64, 96), (96, 64)]
SMALL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 6,
    "num_labels": 5,
    "dropout": 0.0,
}
MINE = {**TWO_LAYERS, "transformer": {**TWO_LAYERS["transformer"], "dropout": 0.0}}


def randomise(model: nn.Module) -> None:
    """Also norms and biases, which start at 1 and 0."""
    torch.manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.7, 1.3)
        elif value.dim() == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn_like(value))


@pytest.fixture(scope="module")
def theirs() -> Any:
    # With losses of all layers its layers are fed the norms of those before, unlike DETR's.
    changes = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "auxiliary_loss": False}
    config = detr_config(**SMALL, **changes)
    torch.manual_seed(0)
    model = transformers.DetrForObjectDetection(config).eval()
    randomise(model)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 96, 96, dtype=torch.long)
    for image, (height, width) in enumerate(SIZES):
        images[image, :, height:] = 0
        images[image, :, :, width:] = 0
        mask[image, :height, :width] = 1
    return images, mask


def test_outputs_and_losses(theirs: Any) -> None:
    state = theirs.state_dict()
    facts = recognise_transformers(PublicWeights(state, None), "memory")
    assert (facts.detector, facts.depth, facts.num_classes) == ("detr", 18, 5)
    model = detector("detr", MINE, num_classes=5).eval()
    report = convert_transformers(state, model)
    assert set(report.names) == set(state)
    images, mask = batch()
    targets = [
        target([[4, 4, 50, 40], [30, 10, 90, 60]], [1, 4], SIZES[0]),
        target([], [], SIZES[1]),
    ]
    labels = []
    for one, (height, width) in zip(targets, SIZES, strict=True):
        corners = one.boxes / torch.tensor([width, height, width, height])
        centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        labels.append({"class_labels": one.labels, "boxes": torch.cat([centers, sides], dim=1)})
    with torch.no_grad():
        want = theirs(pixel_values=images, pixel_mask=mask, labels=labels)
        outputs = model(images, targets)
        losses = model.loss(outputs, targets)
    torch.testing.assert_close(outputs.class_logits[-1], want.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.boxes[-1], want.pred_boxes, rtol=1e-4, atol=1e-5)
    for term, key, weight in (
        ("class", "loss_ce", 1),
        ("l1", "loss_bbox", 5),
        ("box", "loss_giou", 2),
    ):
        expected = weight * want.loss_dict[key].item()
        assert losses[term].item() == pytest.approx(expected, rel=1e-4), term


DEFORMABLE = {
    "plain": {},
    "refine": {"refine": True},
    "two_stage": {"refine": True, "two_stage": True},
}


@pytest.mark.parametrize("kind", DEFORMABLE)
def test_deformable_outputs_and_losses(kind: str) -> None:
    config = deformable_config(
        **SMALL,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_n_points=2,
        decoder_n_points=2,
        two_stage_num_proposals=6,
        auxiliary_loss=True,
        with_box_refine=kind != "plain",
        two_stage=kind == "two_stage",
    )
    torch.manual_seed(0)
    theirs = transformers.DeformableDetrForObjectDetection(config).eval()
    randomise(theirs)
    for name, value in theirs.state_dict().items():  # they would all look at the same places
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(value, std=0.1)
        elif "bbox_embed" in name and ".layers.2.weight" in name:
            torch.nn.init.normal_(value, std=0.05)
    state = theirs.state_dict()
    facts = recognise_transformers(PublicWeights(state, None), "memory")
    assert facts.variant == {"plain": None}.get(kind, f"_{kind}")
    settings = {**MINE["transformer"], "num_points": 2}
    changes = {**MINE, "transformer": settings, **DEFORMABLE[kind]}
    model = detector("deformable_detr", changes, num_classes=5).eval()
    report = convert_transformers(state, model)
    assert set(report.names) == set(state)
    images, mask = batch()
    with torch.no_grad():
        want = theirs(pixel_values=images, pixel_mask=mask)
        outputs = model(images, sizes=SIZES)
    torch.testing.assert_close(outputs.class_logits[-1], want.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.boxes[-1], want.pred_boxes, rtol=1e-4, atol=1e-4)
    for layer, before in enumerate(want.auxiliary_outputs or ()):
        torch.testing.assert_close(
            outputs.class_logits[layer], before["logits"], rtol=1e-4, atol=1e-4
        )
    if kind == "two_stage":
        logits, boxes = outputs.proposals
        torch.testing.assert_close(logits, want.enc_outputs_class, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            boxes, want.enc_outputs_coord_logits.sigmoid(), rtol=1e-4, atol=1e-4
        )


def test_a_safetensors_file(theirs: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    theirs.save_pretrained(tmp_path)
    state = theirs.state_dict()
    read = read_transformers(path).tensors
    assert set(read) == set(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 4, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 99) + b"{}"]
)
def test_a_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="safetensors"):
        read_transformers(path)


def test_half_a_file(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x00" * 8)
    with pytest.raises(CheckpointError, match="damaged"):
        read_transformers(path)
