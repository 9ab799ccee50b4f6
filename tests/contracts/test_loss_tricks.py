"""The tricks that choose a loss: what they set, what refuses them, and that they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detcli.errors import RecipeError
from detcli.losses import BOX_LOSSES, CLASS_LOSSES, MINING
from detcli.models import build_detector
from detcli.recipe import diff_recipes, load_recipe
from tests.models.specs import target
from tests.recipes import write_tiny

ON_CODES = ("l1", "smooth-l1")
BOX = (*ON_CODES, "iou", "giou", "diou", "ciou", "eiou", "focal-eiou", "kl-loss")
RATED = ("varifocal", "quality-focal")
OTHERS = ("label-smoothing", "ohem-hardest", "ohem-rank", "small-box-weight")
TRICKS = (*BOX, *RATED, *OTHERS)
RECIPES = ("retinanet_r50", "fcos_r50_caffe", "atss_r50")


@pytest.mark.parametrize("trick", TRICKS)
def test_the_trick_acts_or_is_refused_with_a_reason(trick: str) -> None:
    changed = []
    for name in RECIPES:
        if trick in ON_CODES and name == "fcos_r50_caffe":
            with pytest.raises(RecipeError, match=r"needs model\.regression to be box or null"):
                load_recipe(name, tricks=[trick])
            continue
        plain, loaded = load_recipe(name).recipe, load_recipe(name, tricks=[trick]).recipe
        keys = [key for key, _, _ in diff_recipes(plain, loaded)]
        assert all(key.startswith(("model.box_loss.", "model.class_loss.")) for key in keys)
        changed.append(bool(keys))
    assert sum(changed) >= len(changed) - 1  # one of the three may have this loss already


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *((a, b) for place, a in enumerate(BOX) for b in BOX[place + 1 :]),
        RATED,
        ("ohem-hardest", "ohem-rank"),
        *((a, b) for a in RATED for b in ("label-smoothing", "ohem-hardest")),
    ],
)
def test_two_choices_of_one_thing_exclude_each_other(first: str, second: str) -> None:
    with pytest.raises(RecipeError, match=f"tricks {first} and {second} exclude each other"):
        load_recipe("atss_r50", tricks=[first, second])


def test_the_rest_combines() -> None:
    tricks = ["eiou", "small-box-weight", "label-smoothing", "ohem-rank"]
    model = load_recipe("atss_r50", tricks=tricks).recipe.model
    assert (model.box_loss.name, model.box_loss.small_box_factor) == ("eiou", 1.5)
    assert (model.class_loss.name, model.class_loss.label_smoothing) == ("focal", 0.05)
    assert model.class_loss.ohem.name == "rank"
    hardest = load_recipe("atss_r50", tricks=["ohem-hardest", "label-smoothing"]).recipe.model
    assert (hardest.class_loss.name, hardest.class_loss.label_smoothing) == ("bce", 0.05)


def test_label_smoothing_needs_a_loss_that_has_it() -> None:
    with pytest.raises(RecipeError, match="unknown key"):
        load_recipe("atss_r50", ["model.class_loss={name: varifocal, label_smoothing: 0.1}"])


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.box_loss.form=linear"], "acts only with name iou, but name is giou"),
        (["model.box_loss.gamma=0.7"], "acts only with name focal_eiou, but name is giou"),
        (["model.box_loss.beta=0.7"], "acts only with name smooth_l1, but name is giou"),
        (["model.box_loss.small_box_factor=0"], "expected greater than 0, got 0"),
        (["model.class_loss.label_smoothing=0.5"], "expected less than 0.5, got 0.5"),
        (
            ["model.class_loss.ohem={name: rank, negatives_per_object: 2}"],
            "acts only with name hardest, but name is rank",
        ),
        (
            ["model.class_loss.ohem={name: hardest, power: 2}"],
            "acts only with name rank, but name is hardest",
        ),
        (["model.class_loss.name=varifocl"], "did you mean varifocal"),
        (["model.class_loss={name: quality_focal, alpha: 0.5}"], "unknown key"),
        (["model.box_loss.name=ciuo"], "did you mean ciou"),
    ],
)
def test_what_cannot_act_is_refused(overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe("atss_r50", overrides)


def test_a_loss_chosen_by_name_does_not_inherit_the_share_of_another() -> None:
    """The focal loss's alpha would be a wrong factor for the negatives of varifocal."""
    loaded = load_recipe("atss_r50", ["model.class_loss.name=varifocal"])
    assert loaded.recipe.model.class_loss.negative_weight == 0.75
    assert "does not use model.class_loss.alpha: dropped" in loaded.notes[0]


def test_the_schema_has_every_loss() -> None:
    for name in BOX_LOSSES:
        loaded = load_recipe("atss_r50", [f"model.box_loss.name={name}"])
        assert loaded.recipe.model.box_loss.name == name
    for name in CLASS_LOSSES:
        loaded = load_recipe("atss_r50", [f"model.class_loss.name={name}"])
        assert loaded.recipe.model.class_loss.name == name
    for name in MINING:
        loaded = load_recipe("atss_r50", [f"model.class_loss.ohem.name={name}"])
        assert loaded.recipe.model.class_loss.ohem.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "fcos", "atss"])
@pytest.mark.parametrize("trick", TRICKS)
def test_the_loss_falls(trick: str, name: str, tmp_path: Path) -> None:
    """The raw outputs themselves follow the gradient, as if a network could make any; their boxes
    stay where the class score learns how good they are, which would move its target."""
    if name == "fcos" and trick in ON_CODES:
        return  # refused, see above
    small = {"name": name, "neck": {"out_channels": 64}, "head": {"num_convs": 0}}
    if name == "fcos":
        small["stride_units"] = True
    keywords = load_recipe(write_tiny(tmp_path, model=small), tricks=[trick]).recipe.model
    torch.manual_seed(0)
    model = build_detector(**keywords.model_dump(), num_classes=2)
    targets = [target([[20, 16, 60, 48]], [0], (64, 64)), target([[8, 20, 40, 60]], [1], (64, 64))]
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 64, 64))
    learning = ("class_logits",) if trick in RATED else ("class_logits", "boxes")
    levels = [level.requires_grad_() for key in learning for level in getattr(outputs, key)]
    optimizer = torch.optim.Adam(levels, lr=0.2)
    totals = []
    for _ in range(12):
        losses = model.loss(outputs, targets)
        total = losses["class"] + losses["box"] * (trick not in RATED)
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < 0.95 * totals[0]
