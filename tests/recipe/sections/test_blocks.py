"""The tricks that switch blocks on: what they set, what refuses them and their keys."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import diff_recipes, load_recipe

ATTENTION = ("se", "cbam", "gc")
DEFORMABLE = ("dcn", "dcn-v1")
NORMS = ("norm-gn", "norm-bn", "norm-ln", "norm-in")
DROPOUT = ("dropout", "dropout-gaussian", "dropout-uniform")
KEYS = {
    **dict.fromkeys(ATTENTION, "model.backbone.attention"),
    **dict.fromkeys(DEFORMABLE, "model.backbone.dcn"),
    "dilation": "model.backbone.dilation",
    **dict.fromkeys(NORMS, "model.head.norm"),
    **dict.fromkeys(DROPOUT, "model.head.dropout"),
}
RECIPES = ("retinanet_r50", "fcos_r50_caffe", "atss_r50", "atss_r18_bccd")


@pytest.mark.parametrize("trick", KEYS)
def test_the_trick_changes_its_own_keys_in_every_detector(trick: str) -> None:
    for name in RECIPES:
        plain, loaded = load_recipe(name).recipe, load_recipe(name, tricks=[trick]).recipe
        keys = [key for key, _, _ in diff_recipes(plain, loaded)]
        assert all(key.startswith(KEYS[trick]) for key in keys), (name, keys)
        # all heads but RetinaNet's have group norm already
        assert bool(keys) is (trick != "norm-gn" or name == "retinanet_r50")


@pytest.mark.parametrize("choices", [ATTENTION, DEFORMABLE, NORMS, DROPOUT], ids=str)
def test_one_of_a_kind(choices: tuple[str, ...]) -> None:
    for place, first in enumerate(choices):
        for second in choices[place + 1 :]:
            with pytest.raises(RecipeError, match=f"tricks {first} and {second} exclude"):
                load_recipe("atss_r50", tricks=[first, second])


def test_kinds_combine() -> None:
    tricks = ["gc", "dcn", "dilation", "norm-ln", "dropout-uniform"]
    model = load_recipe("retinanet_r50", tricks=tricks).recipe.model
    backbone, head = model.backbone, model.head
    assert (backbone.attention.name, backbone.attention.reduction) == ("gc", 4)
    assert (backbone.dcn.version, backbone.dcn.stages) == (2, (2, 3, 4))
    assert (backbone.dilation.stages, backbone.dilation.rates) == ((4,), (1, 2, 5))
    assert (head.norm, head.dropout.name, head.dropout.beta) == ("ln", "uniform", 0.1)


B = "model.backbone"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([f"{B}.attention.name=sse"], "did you mean se"),
        ([f"{B}.attention={{reduction: 4}}"], "attention.name: required"),
        ([f"{B}.attention={{name: se, fusion: mul_add}}"], "acts only with name gc"),
        ([f"{B}.attention={{name: se, stages: [1, 2]}}"], "stages: stage 1 is frozen"),
        ([f"{B}.attention={{name: se, stages: []}}"], "stages: expected at least one value"),
        (
            [f"{B}.attention={{name: se, stages: [2, 2]}}"],
            r"expected each stage once, got \[2, 2\]",
        ),
        ([f"{B}.attention={{name: se, stages: [5]}}"], "expected 1, 2, 3 or 4, got 5"),
        ([f"{B}.attention={{name: se, reduction: 7}}"], "a divisor of 512 channels, got 7"),
        ([f"{B}.dcn={{version: 3}}"], "expected 1 or 2, got 3"),
        ([f"{B}.dcn={{groups: 3}}"], "a divisor of 128 channels, got 3"),
        ([f"{B}.dcn={{}}", f"{B}.frozen_stages=4"], "stages: stage 2 is frozen"),
        ([f"{B}.dilation={{rates: [0, 2]}}"], r"expected numbers of 1 or more, got \[0, 2\]"),
        ([f"{B}.dilation={{rates: [1]}}"], "all blocks of stage 4 would have dilation 1"),
        (
            [f"{B}.dilation={{rates: [1, 1, 2]}}", f"{B}.depth=18"],
            "all blocks of stage 4 would have dilation 1",
        ),
        ([f"{B}.norm=ln"], "torchvision has no weights with layer norm"),
        ([f"{B}.norm=in"], "torchvision has no weights with instance norm"),
        (["model.head.norm=frozen_bn"], "expected none, bn, sync_bn, gn, ln or in"),
        (["model.head.norm=bn", "data.batch_per_rank=1"], "bn takes its statistics from the"),
        (["model.head.dropout={rate: 0.1}"], "dropout.name: required"),
        (["model.head.dropout={name: uniform, rate: 0.3}"], "acts only with name bernoulli or"),
        (["model.head.dropout={name: gaussian, beta: 0.3}"], "acts only with name uniform"),
        (["model.head.dropout={name: bernoulli, rate: 1}"], "expected less than 1"),
        (["model.head.dropout={name: uniform, beta: 1.5}"], "expected less than or equal to 1"),
    ],
)
def test_what_cannot_act_is_refused(overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe("atss_r50", overrides)


def test_blocks_may_be_in_the_first_stage_when_it_learns() -> None:
    tricks, free = ["cbam", "dcn"], [f"{B}.frozen_stages=0", f"{B}.depth=18"]
    stages = [f"{B}.attention.stages=[1]", f"{B}.dcn.stages=[1, 4]"]
    backbone = load_recipe("atss_r50", [*free, *stages], tricks=tricks).recipe.model.backbone
    assert (backbone.attention.stages, backbone.dcn.stages) == ((1,), (1, 4))
