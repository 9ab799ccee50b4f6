"""Every fault on one line: file and line, key, what was expected, what was found, nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from detcli.errors import RecipeError
from detcli.recipe import Recipe, load_recipe, recipe_from_dict
from detcli.recipe.sections.section import variants
from tests.recipe.texts import MINIMAL, lines_of, load

NAMES = list(variants(Recipe.model_fields["model"]))
DETECTORS = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
COCO = """\
name: small
about: A recipe for a test.
data:
  format: coco
  root: data/coco
  train: {annotations: a.json, images: train}
  val: {annotations: b.json, images: val}
model: {name: atss}
"""


def test_all_errors_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: small
data:
  format: shapes
  root: data/shapes
  shapes: {}
  resize: {short: [640, wide], pick: chioce}
  clases: [car]
model:
  name: atss
  head: {num_convs: four}
optim: {lr: .nan, momentun: 0.9}
lr: 0.1
"""
    lines = lines_of(tmp_path, text)
    assert [line.split(": ", 2)[:2] for line in lines] == [
        ["small.yaml:1", "about"],
        ["small.yaml:6", "data.resize.pick"],
        ["small.yaml:6", "data.resize.short[1]"],
        ["small.yaml:7", "data.clases"],
        ["small.yaml:10", "model.head.num_convs"],
        ["small.yaml:11", "optim.lr"],
        ["small.yaml:11", "optim.momentun"],
        ["small.yaml:12", "lr"],
    ]
    assert "expected choice or range, got 'chioce'; did you mean choice?" in lines[1]
    assert "got 'wide'" in lines[2]
    assert "did you mean classes? allowed here: format, root, " in lines[3]
    assert "expected a finite number, got nan" in lines[5]
    assert "did you mean momentum?" in lines[6]
    assert "did you mean optim.lr?" in lines[7]


# (what is wrong, change of MINIMAL or COCO, beginning of the only line)
FAULTS = {
    "no name": ("name: small\n", "", "small.yaml:1: name: required, but not set"),
    "a name that is no folder": (
        "name: small",
        "name: ../x",
        "small.yaml:1: name: expected a word",
    ),
    "a string is no list of letters (PEERS 9)": (
        "root: data/coco",
        "root: data/coco\n  classes: car",
        "small.yaml:6: data.classes: expected a list, like [car], got 'car'",
    ),
    "a repeated class": (
        "root: data/coco",
        "root: data/coco\n  classes: [car, bus, car]",
        "small.yaml:6: data.classes: each name once, but 'car' is repeated",
    ),
    "no format": ("  format: coco\n", "", "small.yaml:3: data.format: required, but not set"),
    "coco without images": (
        "{annotations: a.json, images: train}",
        "{annotations: a.json}",
        "small.yaml:6: data.train.images: format coco needs it",
    ),
    "coco without a split": (
        "  val: {annotations: b.json, images: val}\n",
        "",
        "small.yaml:3: data.val: format coco needs it, with annotations and images",
    ),
    "a voc key in coco": (
        "{annotations: a.json, images: train}",
        "{annotations: a.json, images: train, split: train}",
        "small.yaml:6: data.train.split: format coco does not read it",
    ),
    "shapes of another format": (
        "root: data/coco",
        "root: data/coco\n  shapes: {}",
        "small.yaml:6: data.shapes: acts only with format shapes",
    ),
    "a class file of another format": (
        "root: data/coco",
        "root: data/coco\n  class_file: classes.txt",
        "small.yaml:6: data.class_file: acts only with format yolo",
    ),
    "a range of one": (
        "root: data/coco",
        "root: data/coco\n  resize: {short: [800], pick: range}",
        "small.yaml:6: data.resize.short: pick: range needs two numbers",
    ),
    "a long side below the short one": (
        "root: data/coco",
        "root: data/coco\n  resize: {short: [800], long: 640}",
        "small.yaml:6: data.resize.long: expected at least the short side 800, got 640",
    ),
    "two numbers for three": (
        "root: data/coco",
        "root: data/coco\n  mean: [1, 2]",
        "small.yaml:6: data.mean[2]: missing from the list",
    ),
    "four numbers for three": (
        "root: data/coco",
        "root: data/coco\n  mean: [1, 2, 3, 4]",
        "small.yaml:6: data.mean: expected at most 3 values, got [1, 2, 3, 4]",
    ),
    "a standard deviation of zero": (
        "root: data/coco",
        "root: data/coco\n  std: [1, 0, 1]",
        "small.yaml:6: data.std: expected numbers greater than 0",
    ),
    "an unknown detector": (
        "{name: atss}",
        "{name: ats}",
        f"small.yaml:8: model.name: expected {DETECTORS}, got 'ats'; did you mean atss?",
    ),
    "no detector": (
        "{name: atss}",
        "{topk_per_level: 5}",
        f"small.yaml:8: model.name: required, but not set; expected {DETECTORS}",
    ),
    "a word for a section": ("{name: atss}", "atss", "small.yaml:8: model: expected a section"),
    "a key of another detector": (
        "{name: atss}",
        "{name: atss, anchors: {}}",
        "small.yaml:8: model.anchors: unknown key;",
    ),
    "a number for a switch": (
        "{name: atss}",
        "{name: atss, backbone: {norm_eval: 1}}",
        "small.yaml:8: model.backbone.norm_eval: expected a valid true or false, got 1",
    ),
    "quoted numbers": (
        "{name: atss}",
        "{name: atss, anchor_scale: '8'}",
        "small.yaml:8: model.anchor_scale: expected a valid number, got '8'",
    ),
    "levels the wrong way round": (
        "{name: atss}",
        "{name: atss, neck: {min_level: 4, max_level: 3}}",
        "small.yaml:8: model.neck.min_level: expected at most max_level (3), got 4",
    ),
    "IoU thresholds the wrong way round": (
        "{name: atss}",
        "{name: atss, assigner: {name: max_iou, positive_iou: 0.3}}",
        "small.yaml:8: model.assigner.negative_iou: expected at most positive_iou (0.3), got 0.4",
    ),
    "torchvision's weights for a caffe network": (
        "{name: atss}",
        "{name: atss, backbone: {style: caffe}}",
        "small.yaml:8: model.backbone.weights: torchvision has no caffe-style weights",
    ),
    "a beta that does nothing": (
        "{name: atss}",
        "{name: atss, box_loss: {name: giou, beta: 0.5}}",
        "small.yaml:8: model.box_loss.beta: acts only with name smooth_l1, but name is giou",
    ),
    "sizes for other levels": (
        "{name: atss}",
        "{name: retinanet, anchors: {sizes: [[32], [64]]}}",
        "small.yaml:8: model.anchors.sizes: expected a list for each of 5 levels, got 2",
    ),
    "two ways of clipping": (
        "model:",
        "optim: {clip_norm: 1, clip_value: 1}\nmodel:",
        "small.yaml:8: optim.clip_value: choose one",
    ),
    "a milestone after the end": (
        "model:",
        "schedule: {milestones: [8, 12]}\nmodel:",
        "small.yaml:8: schedule.milestones: expected epochs below schedule.epochs (12), got [8,",
    ),
    "milestones that do not rise": (
        "model:",
        "schedule: {milestones: [8, 8]}\nmodel:",
        "small.yaml:8: schedule.milestones: expected rising epochs from 1 on, got [8, 8]",
    ),
    "milestones of a cosine": (
        "model:",
        "schedule: {name: cosine, milestones: [8]}\nmodel:",
        "small.yaml:8: schedule.milestones: acts only with name step, but name is cosine",
    ),
    "4x": (
        "model:",
        "schedule: {epochs: 4x}\nmodel:",
        "small.yaml:8: schedule.epochs: expected a whole number greater than 0, or 1x, 2x or 3x, "
        "got '4x'",
    ),
    "an infinity": (
        "model:",
        "optim: {lr: 1e999}\nmodel:",
        "small.yaml:8: optim.lr: expected a finite number, got inf",
    ),
    "a plateau of a loss that is not measured": (
        "model:",
        "schedule: {name: plateau, monitor: loss}\nmodel:",
        "small.yaml:8: schedule.monitor: loss is only measured with train.val_loss: true",
    ),
    "a split that is not there": (
        "model:",
        "eval: {split: test}\nmodel:",
        "small.yaml:8: eval.split: data.test is not set",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_one_line(case: str, tmp_path: Path) -> None:
    old, new, wanted = FAULTS[case]
    assert COCO.count(old) == 1
    (line,) = lines_of(tmp_path, COCO.replace(old, new))
    assert line.startswith(wanted), line


def test_the_unbroken_texts_load(tmp_path: Path) -> None:
    load(tmp_path, COCO)
    load(tmp_path, MINIMAL)


def test_control_characters_stay_on_one_line(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, COCO + '"a\\nb\\e[31m": 1\n')
    assert line.startswith("small.yaml:9: a\\nb\\x1b[31m: unknown key;")


def test_a_stored_recipe_names_where_it_was_stored(tmp_path: Path) -> None:
    values = load(tmp_path, COCO).recipe.model_dump(mode="json")
    values["optim"]["lr"] = "fast"
    with pytest.raises(RecipeError, match=r"^run/last\.pt: optim\.lr: expected a valid number"):
        recipe_from_dict(values, "run/last.pt")


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
    recipe = load(tmp_path, COCO).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.optim.lr = 1.0


@pytest.mark.parametrize("channels", [32, 48])
def test_group_norm_needs_channels_for_its_groups(channels):
    with pytest.raises(RecipeError, match=r"neck\.out_channels.*32 groups"):
        load_recipe("atss_r50", [f"model.neck.out_channels={channels}"])
