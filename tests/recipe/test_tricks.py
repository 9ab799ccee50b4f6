"""Tricks: overlays with conditions and conflicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from detcli.errors import RecipeError
from detcli.recipe import files, load_recipe
from tests.paths import ROOT
from tests.recipe.texts import MINIMAL, lines_of, load

SHIPPED = sorted(path.stem for path in (ROOT / "recipes" / "tricks").glob("*.yaml"))


@pytest.fixture
def overlays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of tricks in the place of the shipped one."""
    folder = tmp_path / "recipes" / "tricks"
    folder.mkdir(parents=True)
    monkeypatch.setattr(files, "recipes_folder", lambda: folder.parent)
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(f"about: A trick.\nsource: a test\n{text}")


def test_later_layers_win(overlays: Path, tmp_path: Path) -> None:
    write(overlays, "slow", "optim: {lr: 0.001, momentum: 0.5, weight_decay: 0.1}\n")
    write(overlays, "heavy", "optim: {momentum: 0.8, weight_decay: 0.2}\n")
    loaded = load(tmp_path, MINIMAL, "optim.weight_decay=0.3", tricks=("slow", "heavy"))
    optim, origins = loaded.recipe.optim, loaded.origins
    assert (optim.lr, optim.momentum, optim.weight_decay) == (0.001, 0.8, 0.3)
    assert origins["optim.lr"] == "trick slow"
    assert origins["optim.momentum"] == "trick heavy"
    assert origins["optim.weight_decay"] == "command line"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_conflicts_hold_both_ways(order: tuple[str, ...], overlays: Path, tmp_path: Path) -> None:
    write(overlays, "a", "conflicts: [b]\n")
    write(overlays, "b", "optim: {lr: 1}\n")
    (line,) = lines_of(tmp_path, MINIMAL, tricks=order)
    assert line == f"tricks {order[0]} and {order[1]} exclude each other: choose one"


def test_the_same_trick_twice(overlays: Path, tmp_path: Path) -> None:
    write(overlays, "a", "optim: {lr: 1}\n")
    assert lines_of(tmp_path, MINIMAL, tricks=("a", "a")) == ["trick a: given 2 times"]


@pytest.mark.parametrize(
    ("needs", "unmet"),
    [
        ("model.name: [atss, retinanet]", None),
        ("model.name: [atss, fcos]", "model.name to be atss or fcos, but it is 'retinanet'"),
        ("optim.lr: 0.02", None),
        ("train.ema: null", None),
        ("train.ema: set", "train.ema to be set, but it is null"),
        ("train.val_loss: true", "train.val_loss to be true, but it is false"),
        ("train.accumulate: true", "train.accumulate to be true, but it is 1"),
        ("model.stride_units: set", "model.stride_units to be set, but it is null"),
        ("data.augment.flip: set", None),
    ],
)
def test_needs_look_at_the_resolved_recipe(
    needs: str, unmet: str | None, overlays: Path, tmp_path: Path
) -> None:
    write(overlays, "picky", f"needs: {{{needs}}}\n")
    if unmet is None:
        load(tmp_path, MINIMAL, tricks=("picky",))
    else:
        assert lines_of(tmp_path, MINIMAL, tricks=("picky",)) == [f"trick picky needs {unmet}"]


def test_needs_are_named_beside_what_the_schema_refuses(overlays: Path, tmp_path: Path) -> None:
    """Only what is set so far counts: train.val_loss may yet have the wanted value."""
    write(overlays, "picky", "needs: {model.name: fcos, train.val_loss: true}\nmodel: {neckk: 1}\n")
    first, second = lines_of(tmp_path, MINIMAL, tricks=("picky",))
    assert "model.neckk: unknown key" in first
    assert second == "trick picky needs model.name to be fcos, but it is 'retinanet'"


def test_needs_can_be_met_on_the_command_line(overlays: Path, tmp_path: Path) -> None:
    write(overlays, "picky", "needs: {train.val_loss: true}\n")
    load(tmp_path, MINIMAL, "train.val_loss=true", tricks=("picky",))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "needs: {optim.lrr: 1}\n",
            "tricks/bad.yaml:3: needs: no key optim.lrr; did you mean optim.lr",
        ),
        ('needs: {"\\e[1m": 1}\n', r"tricks/bad.yaml:3: needs: no key \x1b[1m"),
        (
            'needs: {optim.lr: "\\e[1m"}\n',
            r"trick bad needs optim.lr to be \x1b[1m, but it is 0.02",
        ),
        (
            "conflicts: ema\n",
            "tricks/bad.yaml:3: conflicts: expected a list, like [ema], got 'ema'",
        ),
        ("optin: {lr: 1}\n", "tricks/bad.yaml:3: optin: unknown key; did you mean optim?"),
        ("optim: {lr: x}\n", "tricks/bad.yaml:3: optim.lr: expected a valid number, got 'x'"),
        ("optim: [\n", "tricks/bad.yaml:4: not a valid recipe"),
    ],
)
def test_faults_of_an_overlay_name_its_line(
    text: str, wanted: str, overlays: Path, tmp_path: Path
) -> None:
    write(overlays, "bad", text)
    (line,) = lines_of(tmp_path, MINIMAL, tricks=("bad",))
    assert wanted in line


def test_a_choice_made_by_a_trick_drops_keys_with_a_note(overlays: Path, tmp_path: Path) -> None:
    write(overlays, "smooth", "schedule: {name: cosine}\n")
    loaded = load(tmp_path, MINIMAL, tricks=("smooth",))
    assert loaded.recipe.schedule.name == "cosine"
    assert "schedule is now cosine, which does not use schedule.milestones" in loaded.notes[0]


# What one of them has by itself (atss_r50: giou; sgd; 1x) another has not.
AT_HOME = ("atss_r50", "retinanet_r50", "fcos_r50_caffe_mstrain_2x", "atss_r18_bccd")
# Where a trick is at home that ATSS refuses.
ONLY_FOR = {
    "small-iou": ("retinanet_r50",),
    "am-softmax": ("ssd300",),
    "roi-pool": ("faster_rcnn_r50",),
    "roi-context": ("faster_rcnn_r50",),
    "recompute": ("detr_r50",),
}

# What a trick needs besides, on the command line.
TOGETHER_WITH = {
    "distill": ["train.distill.teacher=runs/teacher/1"],
    "sgd-from-scratch": ["model.backbone.weights=null"],
}
# What they switch on is on unless a recipe says otherwise, which no shipped one does.
ON_BY_DEFAULT = {"pin-memory": "pin_memory", "persistent-workers": "persistent_workers"}


@pytest.mark.parametrize("trick", ON_BY_DEFAULT)
def test_a_trick_turns_on_what_a_recipe_turns_off(trick: str, tmp_path: Path) -> None:
    key = ON_BY_DEFAULT[trick]
    off = MINIMAL.replace("{variant: plain}}", f"{{variant: plain}}, {key}: false}}")
    assert getattr(load(tmp_path, off).recipe.data, key) is False
    assert getattr(load(tmp_path, off, tricks=(trick,)).recipe.data, key) is True


@pytest.mark.parametrize("trick", SHIPPED)
def test_every_shipped_trick_changes_a_shipped_recipe(trick: str) -> None:
    names = ONLY_FOR.get(trick, AT_HOME)
    given = TOGETHER_WITH.get(trick, [])
    loaded = load_recipe(names[0], given, tricks=[trick])
    assert f"trick {trick}" in loaded.origins.values()
    if trick in ON_BY_DEFAULT:
        return
    assert any(
        load_recipe(name, given, tricks=[trick]).recipe != load_recipe(name).recipe
        for name in names
    )


def test_unknown_trick_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no trick 'cosin'; did you mean cosine\?"):
        load_recipe("atss_r50", tricks=["cosin"])


def test_a_trick_is_a_name_and_never_a_path() -> None:
    with pytest.raises(RecipeError, match="no trick"):
        load_recipe("atss_r50", tricks=["../tricks/ema"])


def test_a_multiple_is_of_the_value_below(overlays: Path, tmp_path: Path) -> None:
    write(overlays, "big", "data: {resize: {short: x1.5, long: x1.5, eval_short: x1.5}}\n")
    write(overlays, "fast", "optim: {lr: x2}\n")
    resize = "variant: plain}, resize: {short: [101, 640], long: 900}"
    text = MINIMAL.replace("variant: plain}", resize)
    recipe = load(tmp_path, text, tricks=("big", "fast")).recipe
    assert recipe.data.resize.short == (152, 960)
    assert recipe.data.resize.long == 1350
    assert recipe.data.resize.eval_short is None  # follows the short side by itself
    assert recipe.optim.lr == 0.04
    # of the default, where the recipe says nothing
    assert load(tmp_path, MINIMAL, tricks=("big",)).recipe.data.resize.short == (1200,)


def test_a_trick_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("about: Slower.\nsource: a test\noptim: {lr: x0.5}\n")
    loaded = load(tmp_path, MINIMAL, tricks=(str(path), "ema"))
    assert loaded.recipe.optim.lr == 0.01
    assert loaded.origins["optim.lr"] == "trick slow"


def test_the_name_of_a_file_stays_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "slow\x1b[1m.yaml"
    path.write_text("about: Slower.\nsource: a test\noptim: {lr: x0.5}\n")
    loaded = load(tmp_path, MINIMAL, tricks=(str(path),))
    assert loaded.origins["optim.lr"] == r"trick slow\x1b[1m"
