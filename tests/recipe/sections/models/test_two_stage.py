"""The sections of two-stage detectors: what their keys refuse."""

from __future__ import annotations

import pytest

from detcli.errors import RecipeError
from detcli.recipe import load_recipe


def test_lower_thresholds_for_small_objects() -> None:
    """Of the regions; a cascade's thresholds are its own."""
    model = load_recipe("faster_rcnn_r50", tricks=["small-iou"]).recipe.model
    assert (model.assigner.small.positive_iou, model.rpn.assigner.small) == (0.35, None)
    with pytest.raises(RecipeError, match=r"model\.assigner: unknown key"):
        load_recipe("cascade_rcnn_r50", tricks=["small-iou"])


@pytest.mark.parametrize("trick", ["kl-loss", "density-branch"])
def test_estimates_of_one_look(trick: str) -> None:
    """A cascade's last boxes start from boxes that are uncertain themselves."""
    for recipe in ("faster_rcnn_r50", "ga_faster_rcnn_r50_caffe"):
        loaded = load_recipe(recipe, tricks=[trick])
        assert f"trick {trick}" in loaded.origins.values()
    with pytest.raises(RecipeError, match=rf"trick {trick} needs model\.name to be retinanet"):
        load_recipe("cascade_rcnn_r50", tricks=[trick])
    with pytest.raises(RecipeError, match=r"model\.rpn\.box_loss\.name: expected .*got 'kl'"):
        load_recipe("faster_rcnn_r50", ["model.rpn.box_loss.name=kl"])


def test_rounded_pooling_drops_the_keys_of_samples() -> None:
    loaded = load_recipe("faster_rcnn_r50_torchvision", tricks=["roi-pool"])
    assert loaded.recipe.model.pooler.sampling_ratio == 0
    assert "does not use model.pooler" in loaded.notes[0]
    with pytest.raises(RecipeError, match=r"needs model\.name to be faster_rcnn or cascade_rcnn"):
        load_recipe("atss_r50", tricks=["roi-pool"])


@pytest.mark.parametrize(
    ("recipe", "overrides", "reason"),
    [
        (
            "faster_rcnn_r50_torchvision",
            ["model.neck.max_level=7"],
            r"model\.rpn\.anchors\.sizes: expected a list for each of 6 levels, got 5",
        ),
        (
            "faster_rcnn_r50_torchvision",
            ["model.neck={name: fpn_carafe}", "model.rpn.anchors.sizes=[[32]]"],
            r"model\.rpn\.anchors\.sizes: expected a list for each of 5 levels, got 1",
        ),
        (
            "faster_rcnn_r50",
            ["model.neck.extra_relu=true"],
            r"model\.neck\.extra_relu: with extra_from pool there are no extra convolutions",
        ),
        (
            "retinanet_r50",
            ["model.neck.extra_from=pool", "model.neck.extra_relu=true"],
            r"with extra_from pool there are no extra convolutions",
        ),
        (
            "faster_rcnn_r50",
            ["model.pooler.name=roi_pool", "model.pooler.sampling_ratio=2"],
            r"model\.pooler\.sampling_ratio: acts only with name roi_align, but name is roi_pool",
        ),
        (
            "faster_rcnn_r50",
            ["model.sampler={num: null, positive_share: 0.5}"],
            r"model\.sampler\.positive_share: acts only with a num; remove it",
        ),
        (
            "faster_rcnn_r50",
            ["model.delta_stds=[0.1, 0.1, 0, 0.2]"],
            r"model\.delta_stds: expected numbers greater than 0",
        ),
        (
            "faster_rcnn_r50",
            ["model.assigner.single_best=true"],
            r"model\.assigner\.single_best: acts only with a min_positive_iou; remove it",
        ),
        (
            "faster_rcnn_r50",
            ["model.rpn.trained_anchors=inside"],
            r"model\.rpn\.trained_anchors: expected all, cell_inside or box_inside, got 'inside'",
        ),
        (
            "ga_faster_rcnn_r50_caffe",
            ["model.rpn.anchors.base_scale=4"],
            r"model\.rpn\.anchors: unknown key; ",
        ),
        (
            "ga_faster_rcnn_r50_caffe",
            ["model.rpn.delta_stds=[0.07, 0, 0.1, 0.1]"],
            r"model\.rpn\.delta_stds: expected numbers greater than 0",
        ),
        (
            "ga_faster_rcnn_r50_caffe",
            ["model.rpn.guidance.center_ratio=0.6"],
            r"model\.rpn\.guidance\.center_ratio: expected at most ignore_ratio \(0\.5\), got 0\.6",
        ),
        (
            "ga_faster_rcnn_r50_caffe",
            ["model.rpn.guidance.shape_assigner.negative_iou=0.8"],
            r"shape_assigner\.negative_iou: expected at most positive_iou \(0\.7\), got 0\.8",
        ),
        (
            "cascade_rcnn_r50",
            ["model.stage_ious=[0.5, 0.6]"],
            r"model\.stage_stds: expected 2 values, as stage_ious has, got 3",
        ),
        (
            "cascade_rcnn_r50",
            ["model.stage_ious=[0.5, 0.6, 1.7]"],
            r"model\.stage_ious: expected numbers above 0, up to 1, got \[0\.5, 0\.6, 1\.7\]",
        ),
        (
            "cascade_rcnn_r50",
            ["model.stage_stds=[[1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]"],
            r"model\.stage_stds: expected four numbers greater than 0 for each stage",
        ),
        (
            "cascade_rcnn_r50",
            ["model.stage_weights=[1, 1, 0]"],
            r"model\.stage_weights: expected numbers greater than 0, got \[1\.0, 1\.0, 0\.0\]",
        ),
    ],
)
def test_what_cannot_be_is_refused(recipe: str, overrides: list[str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_recipe(recipe, overrides)
