"""Class heads that go on with another list of classes, by name."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from detcli.engine.run.build import build_model
from detcli.engine.run.class_rows import ClassRows, class_rows, with_classes
from detcli.engine.run.start_weights import load_weights
from detcli.recipe import Recipe, load_recipe

pytestmark = pytest.mark.slow

SMALL = (
    "atss_r18_shapes",
    "cascade_rcnn_r18_shapes",
    "centernet_r18_shapes",
    "faster_rcnn_r18_shapes",
    "ssd_vgg16_shapes",
    "yolov4_shapes",
)
OLD, NEW = ("person", "car", "dog"), ("Dog", "lorry", "person", "bus")


def built(recipe: Recipe, num_classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    detector = build_model(recipe, num_classes, pretrained=False)
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.02)
    return detector.eval()


def content_of(recipe: Recipe, detector: nn.Module, names: tuple[str, ...]) -> dict[str, object]:
    return {
        "kind": "weights",
        "recipe": recipe.model_dump(mode="json"),
        "class_names": list(names),
        "category_ids": list(range(1, len(names) + 1)),
        "model": detector.state_dict(),
    }


@pytest.mark.parametrize("name", SMALL)
def test_classes_of_the_same_name_keep_their_rows(name: str) -> None:
    """Every row that depends on a class is found by a plain loop over groups, classes and
    numbers, as the heads' documented layouts say."""
    recipe = load_recipe(name, ()).recipe
    old, new = built(recipe, len(OLD), 0), built(recipe, len(NEW), 1)
    fresh = {key: value.clone() for key, value in new.state_dict().items()}
    said: list[str] = []
    moved = with_classes(content_of(recipe, old, OLD), recipe, new, NEW, said.append)
    load_weights(new, moved, said.append)
    source, own = old.state_dict(), new.state_dict()
    background = int(recipe.model.name in ("ssd", "faster_rcnn", "cascade_rcnn"))
    layouts = class_rows(recipe)
    assert layouts
    for key, value in own.items():
        if key not in layouts:
            assert torch.equal(value, source[key])
            continue
        checked = 0
        for row, taken in enumerate(value):
            kind, group, which, number = place(key, row, len(NEW), background)
            origin = {0: 2, 2: 0}.get(which) if kind == "class" else which
            if origin is None:
                assert torch.equal(taken, fresh[key][row])
            else:
                there = {
                    place(key, number, len(OLD), background): number
                    for number in range(len(source[key]))
                }
                assert torch.equal(taken, source[key][there[kind, group, origin, number]])
                checked += 1
        assert 0 < checked < len(value)
    assert re.search("2 of 4 classes .* 2 randomly initialised; 1 of the checkpoint's 3 ", said[0])
    assert said[1:5] == [
        "  Dog     kept, class 3 of the checkpoint",
        "  lorry   random",
        "  person  kept, class 1 of the checkpoint",
        "  bus     random",
    ]


def place(key: str, row: int, num_classes: int, background: int) -> tuple[str, int, int, int]:
    """(class or other, anchor, class or number of the other, number of the class)."""
    if ".prediction." in key:  # x, y, w, h, objectness, classes
        anchor, inner = divmod(row, 5 + num_classes)
        return ("other", anchor, inner, 0) if inner < 5 else ("class", anchor, inner - 5, 0)
    if ".box." in key:
        return "class", 0, row // 4, row % 4
    anchor, inner = divmod(row, num_classes + background)
    return ("class", anchor, inner, 0) if inner < num_classes else ("other", anchor, 0, 0)


def test_the_same_list_stays_as_it_is() -> None:
    recipe = load_recipe("atss_r18_shapes", ()).recipe
    detector = built(recipe, 3, 0)
    content = content_of(recipe, detector, OLD)
    said: list[str] = []
    assert with_classes(content, recipe, detector, OLD, said.append) is content
    assert said == []


def test_another_order_of_the_same_classes_predicts_the_same_classes() -> None:
    recipe = load_recipe("ssd_vgg16_shapes", ()).recipe
    old, new = built(recipe, 3, 0), built(recipe, 3, 1)
    turned = (OLD[2], OLD[0], OLD[1])
    moved = with_classes(content_of(recipe, old, OLD), recipe, new, turned, lambda line: None)
    load_weights(new, moved, lambda line: None)
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        before, after = old(image), new(image)
    for one, other in zip(before.class_logits, after.class_logits, strict=True):
        rows = one.view(1, -1, 4, *one.shape[2:])[:, :, [2, 0, 1, 3]]
        torch.testing.assert_close(other, rows.reshape(other.shape))


def test_an_ema_in_the_checkpoint_is_what_goes_on() -> None:
    recipe = load_recipe("atss_r18_shapes", ()).recipe
    old, mean, new = (built(recipe, count, seed) for count, seed in ((3, 0), (3, 2), (4, 1)))
    content = {**content_of(recipe, old, OLD), "ema": mean.state_dict()}
    moved = with_classes(content, recipe, new, NEW, lambda line: None)
    load_weights(new, moved, lambda line: None)
    row = new.state_dict()["head.class_logits.weight"][2]
    assert torch.equal(row, mean.state_dict()["head.class_logits.weight"][0])


def test_rows_have_the_documented_size() -> None:
    assert ClassRows(3, 5, 1, 0).size(80) == 255
    assert ClassRows(1, 0, 4, 0).size(80) == 320
    assert ClassRows(6, 0, 1, 1).size(20) == 126
