"""Every shipped recipe, and that what the schema says is what the builders take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detcli.recipe import (
    Recipe,
    diff_recipes,
    dump_yaml,
    find_recipe,
    index_recipes,
    json_schema,
    list_recipes,
    load_recipe,
    recipe_from_dict,
)
from detcli.recipe.reading import read_file
from detcli.recipe.sections.section import Section, plain, variants
from tests.paths import ROOT

NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
ISSUE = {
    *("atss_r50", "atss_r101", "retinanet_r50", "fcos_r50_caffe", "fcos_r50_caffe_mstrain_2x"),
    *("atss_r18_shapes", "atss_r18_bccd", "fcos_r18_bccd", "retinanet_r18_bccd"),
    "atss_r18_aerial",
    *("faster_rcnn_r50", "faster_rcnn_r50_torchvision", "faster_rcnn_r50_dcnv2"),
    *("faster_rcnn_r50_carafe", "faster_rcnn_r18_shapes", "cascade_rcnn_r50"),
    "faster_rcnn_r50_pafpn",
    "cascade_rcnn_r18_shapes",
    *("centernet_r18", "centernet_r18_dcnv2", "centernet_r18_dcn_xingyizhou", "centernet_dla34"),
    *("centernet_r18_shapes", "yolov4", "yolov4_shapes"),
}
# What decides the accuracy; it has to be written in the file, not left to a default.
EXPLICIT = (
    *("data.resize.short", "data.batch_per_rank", "model.backbone.weights", "model.assigner.name"),
    *("model.box_loss.name", "optim.lr", "optim.lr_batch", "optim.weight_decay", "schedule.name"),
    *("schedule.epochs", "postprocess.iou_threshold"),
)
DETECTORS = sorted(variants(Recipe.model_fields["model"]))


def test_the_recipes_of_the_issue_are_there() -> None:
    assert set(NAMES) >= ISSUE
    assert [loaded.recipe.name for loaded in list_recipes()] == NAMES


def test_the_index_says_what_the_recipes_say() -> None:
    loaded = list_recipes()
    index = index_recipes()
    assert [each.name for each in index] == NAMES
    for entry, whole in zip(index, loaded, strict=True):
        assert entry.path == whole.source
        assert entry.about == whole.recipe.about
        assert list(entry.expected) == plain(whole.recipe.expected)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_valid_and_named_like_its_file(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.recipe.name == name
    assert loaded.notes == ()
    for key in EXPLICIT:  # not every detector has an assigner
        if key == "postprocess.iou_threshold" and loaded.recipe.postprocess.method == "none":
            continue  # it would do nothing
        assert loaded.origins.get(key, "recipe ").startswith("recipe "), key


@pytest.mark.parametrize("name", NAMES)
def test_dump_is_complete_and_reads_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name).recipe
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    again = load_recipe(path)
    assert again.recipe == recipe
    defaults = [key for key, origin in again.origins.items() if origin == "default"]
    assert defaults == []
    assert dump_yaml(again.recipe) == path.read_text(encoding="utf-8")
    assert recipe_from_dict(recipe.model_dump(mode="json"), "checkpoint") == recipe
    assert recipe_from_dict(recipe.model_dump(), "checkpoint") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_any_yaml_reader_sees_the_same_recipe(name: str) -> None:
    """The dialect only differs from PyYAML's in what recipes do not use."""
    path = find_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == read_file(path).values


PUBLISHED = {  # AP of MODELS.md; then AP, AP50, APs, APm, APl of the table in notes 001
    "atss_r50": (0.394, 0.361, 0.546, 0.199, 0.386, 0.447),
    "atss_r101": (0.415, 0.395, 0.577, 0.217, 0.423, 0.491),
    "fcos_r50_caffe": (0.366, 0.331, 0.529, 0.173, 0.357, 0.415),
    "ssd300": (0.255, 0.242, 0.427, 0.065, 0.254, 0.384),
    "ssd512": (0.295, 0.276, 0.478, 0.109, 0.307, 0.406),
    "fcos_r50_caffe_mstrain_2x": (0.385, 0.356, 0.554, 0.196, 0.381, 0.443),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_expected_figures(name: str) -> None:
    published, noted = load_recipe(name).recipe.expected
    figures = (published.AP, noted.AP, noted.AP50, noted.APs, noted.APm, noted.APl)
    assert figures == PUBLISHED[name]


def test_every_detector_has_a_section_and_a_recipe() -> None:
    from detcli.models import DETECTORS as BUILDERS

    assert sorted(BUILDERS) == DETECTORS
    assert {load_recipe(name).recipe.model.name for name in NAMES} == set(BUILDERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_nested_sections_fit_too(name: str) -> None:
    """Building takes every keyword of every nested section; nothing is allocated."""
    import torch

    from detcli.models import build_detector

    options = load_recipe(name, ["model.backbone.weights=null"]).recipe.model
    with torch.device("meta"):
        build_detector(options, num_classes=3)


def test_the_experiment_of_the_notes_differs_in_the_start_of_regression_only() -> None:
    box = load_recipe("retinanet_r18_bccd_atss").recipe
    point = load_recipe("fcos_r18_bccd_atss").recipe
    assert box.model.assigner == point.model.assigner
    assert box.model.assigner.name == "atss"
    assert (box.model.regression, point.model.regression) == ("box", "point")
    assert box.model.box_loss == point.model.box_loss
    assert not [key for key, _, _ in diff_recipes(box, point) if not key.startswith("model.")]


def test_diff_is_of_resolved_values(tmp_path: Path) -> None:
    a = load_recipe("atss_r50").recipe
    b = load_recipe("atss_r50", ["optim.clip_norm=20", "train.seed=0", "name=other"]).recipe
    assert diff_recipes(a, a) == []
    assert diff_recipes(a, b) == [("optim.clip_norm", None, 20.0)]


def test_schema_describes_every_key() -> None:
    schema = json_schema()
    assert schema["title"] == "detcli recipe"
    sections = [schema, *schema["$defs"].values()]
    for section in sections:
        assert section["additionalProperties"] is False
        for key, field in section["properties"].items():
            assert field.get("description"), (section.get("title"), key)


def test_defaults_are_valid() -> None:
    """pydantic does not check defaults; a bad one would only show in somebody's recipe."""

    def check(section: type[Section]) -> None:
        for field in section.model_fields.values():
            if isinstance(field.default, Section):
                kind = type(field.default)
                assert kind.model_validate(field.default.model_dump()) == field.default
            for inner in variants(field).values():
                check(inner)

    check(Recipe)


def test_recipes_are_read_without_torch() -> None:
    code = (
        "import sys, detcli.recipe; detcli.recipe.load_recipe('atss_r50');"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
