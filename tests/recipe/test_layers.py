"""Precedence and origins: default < recipe < trick < command line (PEERS 6), read, never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.texts import MINIMAL, lines_of, load


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("optim.lr=1e-3", "optim.lr", 1e-3),
        ("train.ema.decay=0.99", "train.ema.decay", 0.99),  # into a section that is null
        ("data.augment.photometric.prob=1", "data.augment.photometric.prob", 1.0),
        ("data.classes=[a, b]", "data.classes", ["a", "b"]),
        ("data.augment.flip=null", "data.augment.flip", None),
        ("train.cudnn_benchmark=on", "train.cudnn_benchmark", "on"),
        ("schedule.epochs=3x", "schedule.epochs", "3x"),
        ("about=a=b", "about", "a=b"),
        ("model.assigner.topk=5", None, None),
        ("name=__import__('os').getcwd()", None, None),
    ],
)
def test_an_override_lands_or_fails(
    argument: str, key: str | None, value: object, tmp_path: Path
) -> None:
    if key is None:
        (line,) = lines_of(tmp_path, MINIMAL, argument)
        assert line.startswith(f"argument {argument!r}: "), line
        return
    loaded = load(tmp_path, MINIMAL, argument)
    found = loaded.recipe.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert loaded.origins[key] == "command line"
    assert [name for name, origin in loaded.origins.items() if origin == "command line"] == [key]


def test_origins_of_every_resolved_value(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "optim.lr=0.1", "schedule.epochs=6", tricks=("ema",))
    file = tmp_path / "small.yaml"
    assert loaded.origins["optim.lr"] == "command line"
    assert loaded.origins["schedule.gamma"] == f"recipe {file}:10"
    assert loaded.origins["model.assigner.positive_iou"] == f"recipe {file}:7"
    assert loaded.origins["model.assigner.negative_iou"] == "default"
    assert loaded.origins["train.ema.decay"] == "trick ema"
    assert "train.ema" not in loaded.origins
    assert loaded.recipe.optim.lr == 0.1


def test_a_section_around_a_new_key_keeps_its_defaults(tmp_path: Path) -> None:
    ema = load(tmp_path, MINIMAL, "train.ema.decay=0.99").recipe.train.ema
    assert ema is not None
    assert (ema.decay, ema.warmup_steps) == (0.99, 2000)
    loss = load(tmp_path, MINIMAL, "model.box_loss.weight=3").recipe.model.box_loss
    assert (loss.name, loss.weight) == ("l1", 3.0)


def test_a_whole_section_replaces_what_was_there(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "schedule={epochs: 5}")
    assert (loaded.recipe.schedule.epochs, loaded.recipe.schedule.gamma) == (5, 0.1)
    assert loaded.origins["schedule.epochs"] == "command line"
    assert loaded.origins["schedule.gamma"] == "default"


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "optim.lr=1", "optim.lr=2").recipe.optim.lr == 2


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("optim.lr", "expected key.sub=value, like optim.lr=0.01"),
        ("=1", "expected key.sub=value"),
        ("optim..lr=1", "expected key.sub=value"),
        (
            "data.mean.0=1",
            "items of a list cannot be set one by one; give the list: data.mean=[...]",
        ),
        (
            "data.mean[0]=1",
            "items of a list cannot be set one by one; give the list: data.mean=[...]",
        ),
        ("\x1b[=", r"items of a list cannot be set one by one; give the list: \x1b=[...]"),
        ("optim.lr.x=1", "optim.lr is 0.02, not a section; set optim.lr itself"),
        ("optim.lr=fast", "optim.lr: expected a valid number, got 'fast'"),
        ("optim.lr=", "optim.lr: expected a valid number, got null"),
        ("optim.momentun=1", "optim.momentun: unknown key; did you mean momentum?"),
        ("modle.name=fcos", "modle: unknown key; did you mean model?"),
        ("lr=1", "lr: unknown key; did you mean optim.lr?"),
        ("train.ema={decay: 0.9, decay: 0.8}", "decay: set twice"),
        ("data.classes=[a", "not a valid recipe: "),
        ("optim.lr=!!python/name:os.system", "not a valid recipe: tag tag:yaml.org,2002:python"),
        ("schedule.milestones=[30]", "schedule.milestones: expected epochs below"),
    ],
)
def test_a_bad_override_names_the_argument(argument: str, wanted: str, tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, MINIMAL, argument)
    assert line.startswith(f"argument {argument!r}: {wanted}"), line


def test_faults_of_file_and_arguments_come_together(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, MINIMAL + "trian: {}\n", "optim.lr=x", "seed=1", tricks=("emma",))
    assert [line.split(": ")[0] for line in lines] == [
        "small.yaml:11",
        "no trick 'emma'; did you mean ema? expected a file (.yaml) or one of",
        "argument 'optim.lr=x'",
        "argument 'seed=1'",
    ]
    assert "did you mean train.seed?" in lines[3]


def test_another_choice_drops_the_keys_that_only_the_old_one_has(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "model.assigner.topk=5", "model.assigner.name=atss")
    assert loaded.recipe.model.assigner.model_dump() == {"name": "atss", "topk": 5}
    (note,) = loaded.notes
    assert note == (
        "argument 'model.assigner.name=atss': model.assigner is now atss, which does not use "
        "model.assigner.positive_iou: dropped"
    )


@pytest.mark.parametrize("step", [1, -1])
def test_a_key_asked_for_beside_another_choice_is_not_dropped(step: int, tmp_path: Path) -> None:
    arguments = ["model.assigner.positive_iou=0.7", "model.assigner.name=atss"][::step]
    (line,) = lines_of(tmp_path, MINIMAL, *arguments)
    assert line.startswith(
        f"argument '{arguments[::step][0]}': model.assigner.positive_iou: unknown"
    )


def test_another_detector_keeps_what_both_have(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "model.name=fcos")
    assert loaded.recipe.model.name == "fcos"
    assert loaded.recipe.model.assigner.model_dump()["positive_iou"] == 0.6
    assert "fcos, which does not use model.anchors: dropped" in loaded.notes[0]


def test_another_schedule_drops_what_would_do_nothing(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "schedule.name=cosine")
    assert loaded.recipe.schedule.milestones is None
    assert "does not use schedule.milestones, schedule.gamma: dropped" in loaded.notes[0]
    assert loaded.origins["schedule.gamma"] == "default"


def test_the_same_choice_again_drops_nothing(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, "schedule.name=step")
    assert loaded.recipe.schedule.milestones == (3,)
    assert loaded.notes == ()


def test_another_choice_does_not_hide_a_slip(tmp_path: Path) -> None:
    text = MINIMAL.replace("positive_iou", "positive_io")
    (line,) = lines_of(tmp_path, text, "model.assigner.name=atss")
    assert line.startswith("small.yaml:7: model.assigner.positive_io: unknown key;")


@pytest.mark.parametrize(
    ("epochs", "number", "milestones"),
    [
        ("1x", 12, (8, 11)),
        ("2x", 24, (16, 22)),
        ("3x", 36, (27, 33)),
        ("100", 100, (67, 92)),
        ("3", 3, (2,)),
        ("1", 1, ()),
    ],
)
def test_short_names_of_schedules(
    epochs: str, number: int, milestones: tuple[int, ...], tmp_path: Path
) -> None:
    text = MINIMAL.replace("{milestones: [3], gamma: 0.5}", f"{{epochs: {epochs}}}")
    schedule = load(tmp_path, text).recipe.schedule
    assert (schedule.num_epochs, schedule.milestone_epochs) == (number, milestones)
