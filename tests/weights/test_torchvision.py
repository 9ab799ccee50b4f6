"""Layouts of torchvision's files."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection

from detcli.errors import CheckpointError
from detcli.weights import PublicWeights, convert_torchvision, recognise_torchvision
from tests.models.specs import FCOS_TORCHVISION, RETINANET_TORCHVISION, detector


def test_published_torchvision_layout_of_old_versions() -> None:
    """Before 0.13 towers and laterals had no inner index, and frozen norms do not count."""
    peer = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    inner = {f"_head.conv.{index}.0.": f"_head.conv.{2 * index}." for index in (3, 2, 1, 0)}
    for name in ("inner_blocks", "layer_blocks"):
        inner.update({f"{name}.{index}.0.": f"{name}.{index}." for index in range(3)})
    state = {}
    for key, value in peer.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            found = next((new for new in inner if new in key), None)
            state[key if found is None else key.replace(found, inner[found])] = value
    assert "head.regression_head.conv.6.weight" in state
    model = detector("retinanet", RETINANET_TORCHVISION)
    report = convert_torchvision(state, model)
    assert torch.equal(
        model.head.box_tower[3].conv.weight, peer.head.regression_head.conv[3][0].weight
    )
    assert any("eps 0" in note for note in report.notes)
    norms = [key for key in state if key.endswith("running_var")]
    assert torch.equal(model.backbone.stem.norm.running_var, state[norms[0]])

    with pytest.raises(CheckpointError, match=r"set model\.backbone\.norm_eps to 0"):
        convert_torchvision(
            state, detector("retinanet", RETINANET_TORCHVISION, {"backbone": {"norm_eps": 1e-5}})
        )


def test_the_80_classes_of_coco() -> None:
    peer = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    facts = recognise_torchvision(PublicWeights(peer.state_dict(), None), "memory")
    assert facts.num_classes == len(facts.class_names) == 80
    assert facts.class_names[0] == "person"
    assert facts.class_names[-1] == "toothbrush"
    model = detector("fcos", FCOS_TORCHVISION)
    convert_torchvision(peer.state_dict(), model)
    theirs = peer.head.classification_head.cls_logits.weight
    assert torch.equal(model.head.class_logits.weight[0], theirs[1])  # person
    assert torch.equal(model.head.class_logits.weight[79], theirs[90])  # toothbrush
