"""`lr-scale` as people type it: the notes' table, recipes, wrong uses, the range test."""

import json
from pathlib import Path

import pytest

from detcli.engine.train.learning_rate import effective_learning_rate
from detcli.recipe import diff_recipes, load_recipe
from tests.cli.run_cli import run
from tests.recipes import write_tiny

EMA = {"ema": {"decay": 0.9998, "warmup_steps": 2000}}


def document(capsys, *arguments):
    done = run(capsys, "lr-scale", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("gpus", "imgs_per_gpu", "lr"), [(8, 2, 0.02), (2, 2, 0.005), (4, 1, 0.005), (4, 2, 0.01)]
)
def test_the_rates_of_note_001(capsys, gpus, imgs_per_gpu, lr):
    arguments = ("--gpus", gpus, "--imgs-per-gpu", imgs_per_gpu)
    found = document(capsys, *arguments)
    assert found["lr"] == lr
    assert (found["base_lr"], found["base_batch"], found["rule"]) == (0.02, 16, "linear")
    assert found["batch"] == gpus * imgs_per_gpu
    assert run(capsys, "lr-scale", *arguments, "--quiet").out == f"{lr}\n"
    text = run(capsys, "lr-scale", *arguments).out
    assert f"learning rate {lr} = 0.02 x {gpus * imgs_per_gpu} / 16" in text


def test_the_fixed_keys_come_first(capsys):
    found = document(capsys, "--gpus", 4)
    keys = ["lr", "base_lr", "base_batch", "batch", "rule", "formula", "warnings"]
    assert list(found)[:7] == keys
    assert (found["schedule"], found["asked"], found["find"]) == (None, None, None)


def test_an_optimiser_brings_its_rate_and_rule(capsys):
    found = document(capsys, "--gpus", 32, "--optimizer", "adamw", "--base-batch", 16)
    assert (found["base_lr"], found["rule"], found["lr"]) == (1e-4, "sqrt", 2e-4)
    switched = document(capsys, "atss_r50", "--optimizer", "adamw")
    assert switched["base_lr"] == 1e-4
    assert "do not carry over" in switched["warnings"][0]
    typed = document(capsys, "atss_r50", "--optimizer", "adamw", "--base-lr", 0.001)
    assert typed["base_lr"] == 0.001
    assert not [line for line in typed["warnings"] if "carry over" in line]


def test_epochs_and_iterations_both_ways(capsys):
    done = run(capsys, "lr-scale", "--gpus", 8, "--images", 118_272, "--iterations", 90_000)
    assert "12 epochs of 118272 images = 88704 iterations (7392 an epoch)" in done.out
    assert "90000 iterations x 16 images / 118272 = 12.18 epochs" in done.out
    found = document(
        capsys, "--gpus", 2, "--images", 118_272, "--iterations", 90_000, "--epochs", 24
    )
    assert found["asked"]["epochs"] == pytest.approx(90_000 * 4 / 118_272)
    assert found["schedule"]["iterations"] == 24 * 118_272 // 4
    assert found["schedule"]["milestones"] == [16 * 29_568, 22 * 29_568]
    assert any("the schedule has 24" in line for line in found["warnings"])


def test_a_recipe_gives_batch_rate_and_length(capsys, tmp_path):
    path = write_tiny(tmp_path, optim={"lr_batch": 16}, data={"batch_per_rank": 4})
    found = document(capsys, path, "--gpus", 2, "schedule.epochs=6")
    assert (found["imgs_per_gpu"], found["batch"], found["lr"]) == (4, 8, 0.005)
    assert found["schedule"]["images"] == 8
    assert found["schedule"]["iterations"] == found["schedule"]["epochs"] == 6
    assert not (tmp_path / "shapes").exists()


def count(capsys, folder, **data):
    path = write_tiny(folder, data={"shapes": None, "root": str(folder), **data})
    found = document(capsys, path)["schedule"]
    return found and found["images"]


def test_images_are_counted_in_every_format(capsys, tmp_path):
    voc = {"format": "voc", "train": {"split": "a"}, "val": {"split": "a"}}
    assert count(capsys, tmp_path, **voc) is None  # the data is not here
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/a.txt").write_text("one\ntwo 1\n\nthree\n")
    assert count(capsys, tmp_path, **voc) == 3
    split = {"annotations": "a.json", "images": "images"}
    coco = {"format": "coco", "train": split, "val": dict(split)}
    (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "x": 1}))
    assert count(capsys, tmp_path, **coco) == 2
    for broken in ("{", '{"annotations": []}'):
        (tmp_path / "a.json").write_text(broken)
        assert count(capsys, tmp_path, **coco) is None
    split = {"images": "images", "labels": "labels"}
    (tmp_path / "images/inner").mkdir(parents=True)
    for name in ("a.jpg", "inner/b.PNG", "notes.txt"):
        (tmp_path / "images" / name).touch()
    assert count(capsys, tmp_path, format="yolo", train=split, val=dict(split)) == 2


@pytest.mark.parametrize("rule", ["linear", "sqrt", "none"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_engine_arrives_at_the_same_rate_with_the_written_recipe(
    capsys, tmp_path, rule, optimizer
):
    source = write_tiny(tmp_path, optim={"lr_batch": 16, "nesterov": True}, train=EMA)
    target = tmp_path / "new" / "mine.yaml"
    found = document(
        capsys,
        source,
        "--gpus",
        3,
        "--imgs-per-gpu",
        2,
        "--accumulate",
        2,
        "--rule",
        rule,
        "--optimizer",
        optimizer,
        "--write",
        target,
    )
    loaded = load_recipe(target)
    recipe = loaded.recipe
    assert recipe.name == "mine"
    assert "default" not in loaded.origins.values()
    engine = effective_learning_rate(
        recipe.optim,
        batch_per_rank=recipe.data.batch_per_rank,
        world_size=3,
        accumulate=recipe.train.accumulate,
        explicit=False,
    )
    assert engine.lr == found["lr"]
    assert found["written"] == str(target)
    assert recipe.train.ema.decay == pytest.approx(0.9998 ** (12 / 16))
    changed = {key for key, _, _ in diff_recipes(load_recipe(source).recipe, recipe)}
    switched = {"optim.name", "optim.nesterov"} if optimizer == "adamw" else set()
    assert changed - {"optim.lr", "optim.lr_rule"} == {
        "optim.lr_batch",
        "train.accumulate",
        "schedule.warmup_steps",
        "train.ema.decay",
        "train.ema.warmup_steps",
        *switched,
    }


def test_a_file_is_replaced_only_by_force(capsys, tmp_path):
    target = tmp_path / "mine.yaml"
    target.write_text("mine")
    done = run(capsys, "lr-scale", "atss_r50", "--write", target)
    assert (done.code, done.out, target.read_text()) == (2, "", "mine")
    assert "--force" in done.err
    assert run(capsys, "lr-scale", "atss_r50", "--write", target, "--force").code == 0
    assert load_recipe(target).recipe.name == "mine"


def test_published_figures_stay_only_with_their_settings(capsys, tmp_path):
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    document(capsys, "atss_r50", "--gpus", 8, "--write", same)
    document(capsys, "atss_r50", "--gpus", 4, "--write", other)
    published = load_recipe("atss_r50").recipe
    assert load_recipe(same).recipe == published.model_copy(update={"name": "same"})
    assert load_recipe(other).recipe.expected == ()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpus", "0"], "--gpus 0"),
        (["--imgs-per-gpu", "0"], "--imgs-per-gpu 0"),
        (["--accumulate", "-1"], "--accumulate -1"),
        (["--base-lr", "-0.1"], "--base-lr -0.1"),
        (["--base-lr", "nan"], "--base-lr nan"),
        (["--base-batch", "0"], "--base-batch 0"),
        (["--images", "0"], "--images 0"),
        (["--epochs", "0"], "--epochs 0"),
        (["--rule", "cubic"], "linear, sqrt, none"),
        (["--optimizer", "lion"], "sgd, adamw"),
        (["--iterations", "10"], "--images N"),
        (["--write", "mine.yaml"], "a RECIPE"),
        (["--find"], "a RECIPE"),
        (["--steps", "20"], "only with --find"),
        (["atss_r50", "--find", "--steps", "3"], "at least 10"),
        (["atss_r50", "--find", "--min-lr", "1", "--max-lr", "0.1"], "less than --max-lr"),
        (["atss_r50", "--write", "mine.txt"], ".yaml"),
        (["atss_r50", "optim.lr=0.1"], "--base-lr 0.1"),
        (["atss_r50", "--write", "_mine.yaml"], "name"),
        (["no_such_recipe"], "no recipe"),
    ],
)
def test_wrong_uses_are_one_line(capsys, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "lr-scale", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert word in done.err
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_for_people_too(capsys):
    done = run(capsys, "lr-scale", "--gpus", 300)
    assert "warning: 600 images per step: the linear rule has been shown" in done.err
    assert "warning" not in done.out


def test_find_writes_what_it_says_and_no_checkpoint(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_tiny(tmp_path, data={"shapes": {"num_train": 4, "num_val": 1}})
    found = document(
        capsys,
        path,
        "--gpus",
        2,
        "--find",
        "--steps",
        10,
        "--min-lr",
        0.001,
        "--max-lr",
        1e9,
        "--device",
        "cpu",
    )["find"]
    assert found["batch"] == 4
    assert found["diverged_at"] is not None
    assert found["suggestion"] == min(
        rate for rate in (found["steepest"], found["tenth_of_divergence"]) if rate is not None
    )
    folder = Path("runs/tiny_lr_find/1")
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "lr_find.csv",
        "lr_find.json",
        "lr_find.png",
        "lr_find.svg",
    ]
    again = run(capsys, "lr-scale", path, "--find", "--out", folder)
    assert (again.code, again.err.count("\n")) == (2, 1)
