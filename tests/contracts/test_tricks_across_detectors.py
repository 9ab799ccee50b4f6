"""Tricks in the detectors that came after RetinaNet, FCOS and ATSS."""

from __future__ import annotations

import pytest
import torch

from detcli.errors import RecipeError
from detcli.models import build_detector
from detcli.recipe import load_recipe
from tests.models.specs import target

pytestmark = pytest.mark.slow

SIZE = (96, 96)
TAKEN = [
    *((trick, "nas_fcos") for trick in ("auxiliary-head", "iou-branch", "varifocal")),
    *((trick, "nas_fcos") for trick in ("ohem-hardest", "quality-focal")),
    *((trick, "vfnet") for trick in ("ohem-hardest", "quality-focal")),
    *((trick, "ga_retinanet") for trick in ("ohem-hardest", "quality-focal", "varifocal", "l1")),
]
REFUSED = [("l1", "vfnet"), ("smooth-l1", "nas_fcos"), ("iou-branch", "vfnet")]


@pytest.mark.parametrize(("trick", "name"), TAKEN)
def test_finite_and_reaching_every_parameter(trick: str, name: str) -> None:
    torch.manual_seed(0)
    options = load_recipe(f"{name}_r18_shapes", tricks=[trick]).recipe.model
    model = build_detector(options, num_classes=4)
    images = torch.randn(2, 3, *SIZE)
    some = [target([[10, 12, 40, 60], [50, 20, 90, 60]], [0, 2], SIZE), target([], [], SIZE)]
    for targets in (some, [some[1]] * 2):
        model.zero_grad()
        losses = model.loss(model(images), targets)
        assert all(value.isfinite() for value in losses.values())
        assert (losses["box"] > 0) == (targets is some)
        sum(losses.values()).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(("trick", "name"), REFUSED)
def test_what_cannot_act_is_refused(trick: str, name: str) -> None:
    """Distances in pixels have no weight that fits; VFNet's scores know the IoU already."""
    with pytest.raises(RecipeError, match=rf"trick {trick} needs model\.name to be"):
        load_recipe(f"{name}_r18_shapes", tricks=[trick])
