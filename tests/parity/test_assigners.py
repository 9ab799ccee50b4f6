"""The assigners against the targets of the published reference detectors."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from detcli.assign import Assigner, build_assigner
from detcli.ops.priors import Priors, grid_priors, priors_inside
from tests.paths import PARITY

STRIDES = (8, 16, 32, 64, 128)
MAPS = [(192 // s, 256 // s) if s < 128 else (2, 2) for s in STRIDES]
BACKGROUND = 80


def retinanet_anchors(stride: int) -> torch.Tensor:
    """In float32 and in the reference's order of operations: ties of IoU hang on the last bit."""
    ratio = torch.tensor([0.5, 1.0, 2.0])
    scale = torch.tensor([2 ** (i / 3) for i in range(3)])
    height = ratio.sqrt()
    width = 1 / height
    w = (stride * 4 * width[:, None] * scale).flatten()
    h = (stride * 4 * height[:, None] * scale).flatten()
    return torch.stack([-w / 2, -h / 2, w / 2, h / 2], dim=1)


def square_anchors(stride: int) -> torch.Tensor:
    half = 4.0 * stride
    return torch.tensor([[-half, -half, half, half]])


MODELS = {
    "mm_retinanet_r50": (
        retinanet_anchors,
        0.0,
        build_assigner("max_iou", positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0),
    ),
    "mm_atss_r50": (square_anchors, 0.0, build_assigner("atss", topk=9)),
    "mm_fcos_r50_caffe": (square_anchors, 0.5, build_assigner("fcos", center_radius=None)),
}


def reference_labels(fixture: np.lib.npyio.NpzFile, image: int) -> np.ndarray:
    """Classes of all priors of an image, level by level."""
    levels = [fixture[f"target_labels/{level}"].reshape(3, -1) for level in range(len(STRIDES))]
    return np.concatenate([labels[image] for labels in levels])


@pytest.mark.parametrize("name", ["mm_retinanet_r50", "mm_atss_r50"])
def test_anchors_are_those_of_the_reference(name: str) -> None:
    facts = json.loads((PARITY / f"{name}.json").read_text())["bbox_head"]["anchor_generator"]
    for stride, want in zip(STRIDES, facts["base_anchors_xyxy"], strict=True):
        np.testing.assert_allclose(MODELS[name][0](stride), want, atol=1e-4)


@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_targets_equal_the_reference(name: str, image: int) -> None:
    shape_of: Callable[[int], torch.Tensor]
    assigner: Assigner
    shape_of, offset, assigner = MODELS[name]
    fixture = np.load(PARITY / f"{name}.npz")
    priors: Priors = grid_priors(MAPS, STRIDES, [shape_of(s) for s in STRIDES], offset=offset)
    height, width = fixture["valid_hw"][image]
    keep = priors_inside(priors, (int(height), int(width)), offset=offset)
    boxes = torch.from_numpy(fixture[f"gt/{image}/boxes"]).reshape(-1, 4)
    labels = torch.from_numpy(fixture[f"gt/{image}/labels"]).long()

    matched = assigner(priors.select(keep), boxes)
    assert matched.shape == (int(keep.sum()),)
    found = torch.full((len(priors),), BACKGROUND)
    found[keep] = torch.where(
        matched >= 0, torch.cat([labels, labels.new_tensor([BACKGROUND])])[matched], BACKGROUND
    )
    want = reference_labels(fixture, image)
    assert (found.numpy() == want).all()
    assert (want < BACKGROUND).any() == (len(boxes) > 0)
