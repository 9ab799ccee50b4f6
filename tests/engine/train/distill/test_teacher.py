"""Distillation: the losses in closed form, what is refused, and a student that is resumed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detcli.engine.run import checkpoint
from detcli.engine.run.batch import network_input
from detcli.engine.run.build import build_model
from detcli.engine.run.log import RunLog
from detcli.engine.train.build import prepare
from detcli.engine.train.distill import teacher as distill
from detcli.engine.train.distill.teacher import as_teacher_sees, class_loss, map_loss, object_cells
from detcli.engine.train.modes import resume_run
from detcli.engine.train.step import compute_losses
from detcli.engine.train.trainer import Trainer
from detcli.errors import CheckpointError, RecipeError, UsageError
from detcli.recipe import load_recipe
from detcli.types import Target
from tests.engine.train.interrupt import (
    CPU,
    assert_same_state,
    history,
    last,
    run_interrupted,
    run_whole,
)
from tests.models.specs import target
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow

CLASSES = ["circle", "square", "triangle", "cross"]
SMALL_DATA = {"shapes": {"num_train": 4, "num_val": 2}}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The losses


def logits(seed: int) -> list[Tensor]:
    """Two levels, 2 images, 2 anchors of 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, side, side, generator=generator) * 2 for side in (3, 2)]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_class_loss_equals_a_loop_over_every_score(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    total, objects = 0.0, 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        for own, other in zip(mine.flatten(), theirs.flatten(), strict=True):
            p, q = (own / temperature).sigmoid(), (other / temperature).sigmoid()
            total += (q - p).abs() * -(q * p.log() + (1 - q) * (1 - p).log())
        for image in theirs:
            for anchor in (image[:3], image[3:]):
                objects += anchor.sigmoid().max(dim=0).values.sum()
    found = class_loss(student, teacher, num_classes=3, temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * total / objects)


def test_class_loss_of_the_teacher_itself_is_zero_with_no_gradient() -> None:
    student = [level.requires_grad_() for level in logits(0)]
    found = class_loss(student, logits(0), num_classes=3, temperature=1.0)
    assert found.item() == 0
    found.backward()
    # d|q - p| is taken as 0 where p = q, and the other factor is 0 there
    assert all(level.grad is not None and level.grad.abs().max() == 0 for level in student)


def test_class_loss_pulls_towards_the_teacher() -> None:
    student = [torch.zeros_like(level).requires_grad_() for level in logits(1)]
    before = class_loss(student, logits(1), num_classes=3, temperature=1.0)
    before.backward()
    moved = [level.detach() - level.grad for level in student if level.grad is not None]
    assert class_loss(moved, logits(1), num_classes=3, temperature=1.0) < before


def two_targets() -> list[Target]:
    return [target([[10, 12, 40, 60]], [0], (64, 64)), target([], [], (48, 40))]


def test_map_loss_in_closed_form() -> None:
    """A constant difference per kind of cell: d^2 / 2 each, whatever the number of cells."""
    canvas, targets = (64, 64), two_targets()
    teacher = [torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)]
    student = []
    for level in teacher:
        on, off = object_cells(targets, (level.shape[2], level.shape[3]), canvas)
        padding = ~(on | off)
        student.append(level + (2.0 * on + 3.0 * off + 100.0 * padding)[:, None])
    found = map_loss(student, teacher, targets, canvas=canvas, weights=(3.0, 12.0))
    assert found.item() == pytest.approx(3 * 2**2 / 2 + 12 * 3**2 / 2, rel=1e-5)
    assert map_loss(teacher, teacher, targets, canvas=canvas, weights=(3.0, 12.0)) == 0


def test_ranks_together_have_the_gradient_of_the_joint_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mean over two ranks of one image each is the loss of both images."""
    canvas, targets = (64, 64), two_targets()
    student, teacher = logits(0), logits(1)

    def both(images: slice) -> tuple[Tensor, Tensor]:
        mine = [level[images] for level in student]
        theirs = [level[images] for level in teacher]
        scores = class_loss(mine, theirs, num_classes=3, temperature=1.0)
        maps = map_loss(mine, theirs, targets[images], canvas=canvas, weights=(3.0, 12.0))
        return scores, maps

    counts: list[Tensor] = []
    monkeypatch.setattr(distill, "all_rank_mean", lambda value: counts.append(value) or value)
    joint = both(slice(0, 2))
    totals, ranks = [value / 2 for value in counts], []
    for image in (slice(0, 1), slice(1, 2)):
        means = iter(totals)
        monkeypatch.setattr(distill, "all_rank_mean", lambda value, means=means: next(means))
        ranks.append(both(image))
    for term, whole in enumerate(joint):
        torch.testing.assert_close((ranks[0][term] + ranks[1][term]) / 2, whole)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_object_cells_equal_a_loop(data: st.DataObject) -> None:
    side = st.floats(0, 64, width=32)
    boxes = []
    for _ in range(data.draw(st.integers(0, 3))):
        (left, right), (top, bottom) = (sorted(data.draw(st.tuples(side, side))) for _ in "xy")
        boxes.append([left, top, right, bottom])
    size = (data.draw(st.integers(1, 64)), data.draw(st.integers(1, 64)))
    on, off = object_cells([target(boxes, [0] * len(boxes), size)], (8, 4), (64, 64))
    for row in range(8):
        for column in range(4):
            top, left = row * 8, column * 16
            covered = any(
                x1 < left + 16 and x2 > left and y1 < top + 8 and y2 > top
                for x1, y1, x2, y2 in boxes
            )
            valid = top < size[0] and left < size[1]
            assert on[0, row, column].item() == (covered and valid)
            assert off[0, row, column].item() == (not covered and valid)


# A student and its teacher


def write_teacher(folder: Path, name: str = "teacher", **changes: Any) -> Path:
    """A checkpoint of the tiny recipe with random weights, changed."""
    recipe = load_recipe(write_tiny(folder, **changes)).recipe
    torch.manual_seed(7)
    path = folder / f"{name}.pt"
    checkpoint.save(
        path,
        {
            "recipe": recipe.model_dump(mode="json"),
            "class_names": CLASSES,
            "category_ids": [1, 2, 3, 4],
            "model": build_model(recipe, 4, pretrained=False).state_dict(),
        },
    )
    return path


def trainer_of(folder: Path, teacher: Path, *overrides: str, **changes: Any) -> Trainer:
    path = write_tiny(folder, data=SMALL_DATA, **changes)
    recipe = load_recipe(path, [f"train.distill.teacher={teacher}", *overrides]).recipe
    return prepare(recipe, folder, CPU, RunLog(folder, quiet=True), explicit_lr=False)


def first_batch(trainer: Trainer) -> tuple[Tensor, tuple[Target, ...]]:
    batch = next(iter(trainer.data.train_loader.start(0)))
    return network_input(trainer.run.recipe, batch, CPU.device)


def test_the_teacher_itself_as_a_student_has_nothing_to_learn(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path)
    trainer = trainer_of(tmp_path, teacher)
    assert trainer.network.distill is not None
    trainer.network.detector.load_state_dict(checkpoint.load(teacher)["model"])
    images, targets = first_batch(trainer)
    trainer.network.detector.eval()  # batch statistics would differ from the teacher's running ones
    losses = compute_losses(trainer.run.recipe, trainer.network, images, targets)
    assert losses["distill_class"] == losses["distill_features"] == 0
    assert losses["box"] > 0


DETECTORS = {
    "retinanet": {"name": "retinanet"},
    "fcos": {"name": "fcos", "stride_units": True},
    "atss": {"name": "atss"},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_both_terms_reach_every_parameter_of_every_detector(name: str, tmp_path: Path) -> None:
    head = {"num_convs": 0}
    spec = {**DETECTORS[name], "head": head}
    teacher = write_teacher(tmp_path, model={**spec, "neck": {"out_channels": 96}})
    trainer = trainer_of(tmp_path, teacher, model=spec)
    assert trainer.network.distill is not None
    images, targets = first_batch(trainer)
    frozen = {key: value.clone() for key, value in teacher_state(trainer).items()}
    adapters = list(trainer.network.distill.student.adapters.parameters())
    assert len(adapters) == 10  # weight and bias on five levels
    for objects in (targets, [target([], [], one.size) for one in targets]):
        trainer.network.model.zero_grad()
        losses = compute_losses(trainer.run.recipe, trainer.network, images, objects)
        for term in ("distill_class", "distill_features"):
            assert losses[term].dtype == torch.float32
            assert losses[term] > 0
        torch.stack(list(losses.values())).sum().backward()
        for key, parameter in trainer.network.model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        assert all(adapter.grad.abs().sum() > 0 for adapter in adapters)
    assert_same_state(teacher_state(trainer), frozen)
    trained = {
        id(value) for group in trainer.network.optimizer.param_groups for value in group["params"]
    }
    assert trained == {id(parameter) for parameter in trainer.network.model.parameters()}
    assert not any("adapter" in key for key in trainer.network.detector.state_dict())


def teacher_state(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.network.distill is not None
    detector = trainer.network.distill.teacher.detector
    assert not detector.training
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    return detector.state_dict()


def test_gradients_of_adapters_are_those_of_the_formula(tmp_path: Path) -> None:
    """One level by hand: the adapter is a 1x1 convolution of the student's map."""
    teacher = write_teacher(tmp_path, model={"neck": {"out_channels": 96}})
    trainer = trainer_of(tmp_path, teacher, "train.distill.logits_weight=0")
    assert trainer.network.distill is not None
    images, targets = first_batch(trainer)
    trainer.network.detector.eval()
    _, maps = trainer.network.model(images, targets)
    own = trainer.network.detector.neck(trainer.network.detector.backbone(images))
    for adapter, level, adapted in zip(
        trainer.network.distill.student.adapters, own, maps, strict=True
    ):
        torch.testing.assert_close(F.conv2d(level, adapter.weight, adapter.bias), adapted)
    assert "distill_class" not in compute_losses(
        trainer.run.recipe, trainer.network, images, targets
    )


def test_the_teacher_sees_its_own_normalisation(tmp_path: Path) -> None:
    theirs = {"mean": [100.0, 110.0, 120.0], "std": [1.0, 2.0, 1.5], "channels": "bgr"}
    teacher = write_teacher(tmp_path, data=theirs)
    trainer = trainer_of(tmp_path, teacher)
    assert trainer.network.distill is not None
    batch = next(iter(trainer.data.train_loader.start(0)))
    smaller = dataclasses.replace(batch.targets[0], size=(40, 50))  # part of it is padding
    batch = dataclasses.replace(batch, targets=(smaller, *batch.targets[1:]))
    images, targets = network_input(trainer.run.recipe, batch, CPU.device)
    wanted, _ = network_input(trainer.network.distill.teacher.recipe, batch, CPU.device)
    seen = as_teacher_sees(images, targets, trainer.network.distill)
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-3)
    assert (seen[0, :, 40:] == 0).all()
    assert (seen[0, :, :, 50:] == 0).all()


# What is refused, before the first step


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = write_teacher(tmp_path)
    content = checkpoint.load(path)
    checkpoint.save(path, {**content, "class_names": ["a", "b", "c", "d"]})
    with pytest.raises(CheckpointError, match=r"classes a, b, c, d; the data has circle, square"):
        trainer_of(tmp_path, path)


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: no such run folder or checkpoint"):
        trainer_of(tmp_path, tmp_path / "absent")


def test_other_anchors_refuse_class_scores_and_allow_maps(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path, model={"name": "retinanet"})
    with pytest.raises(UsageError, match=r"36 channels on 8/4/2/1/1 cells, 4 channels"):
        trainer_of(tmp_path, teacher)
    trainer = trainer_of(tmp_path, teacher, "train.distill.logits_weight=0")
    losses = compute_losses(trainer.run.recipe, trainer.network, *first_batch(trainer))
    assert losses["distill_features"] > 0
    assert not list(trainer.network.model.adapters.parameters())  # equal widths need none


def test_other_levels_are_refused(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path, model={"neck": {"max_level": 6}})
    with pytest.raises(UsageError, match=r"train\.distill.* 8/4/2/1 and 8/4/2/1/1 cells"):
        trainer_of(tmp_path, teacher, "train.distill.logits_weight=0")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("{logits_weight: 0, feature_weight: 0, background_weight: 0}", "all three weights are 0"),
        ("{logits_weight: 0, temperature: 2}", "acts only with a logits_weight above 0"),
        ("{}", "train.distill.teacher: required, but not set"),
    ],
)
def test_rules_of_the_section(changes: str, reason: str, tmp_path: Path) -> None:
    teacher = ["train.distill.teacher=x"] if changes != "{}" else []
    with pytest.raises(RecipeError, match=reason):
        load_recipe(write_tiny(tmp_path), [f"train.distill={changes}", *teacher])


def test_the_overlay_asks_for_its_teacher(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    with pytest.raises(RecipeError, match=r"distill\.yaml:\d: train\.distill\.teacher: required"):
        load_recipe(path, tricks=["distill"])
    loaded = load_recipe(path, ["train.distill.teacher=runs/t/1"], ["distill"])
    assert loaded.recipe.train.distill.teacher == "runs/t/1"
    assert loaded.origins["train.distill.teacher"] == "command line"


# A run


def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = write_teacher(tmp_path, model={"neck": {"out_channels": 96}})
    recipe = write_tiny(
        tmp_path,
        data=SMALL_DATA,
        train={"save_every": 1, "distill": {"teacher": str(teacher)}, "eval_every": 0},
    )
    whole = run_whole(recipe, tmp_path / "whole")
    run = run_interrupted(recipe, tmp_path / "run", 3, monkeypatch)
    assert history(run) == history(whole)
    mine, theirs = last(run), last(whole)
    assert_same_state(mine["model"], theirs["model"])
    assert_same_state(mine["distill"]["adapters"], theirs["distill"]["adapters"])
    assert len(mine["distill"]["adapters"]) == 10
    first = next(line for line in history(run) if line["kind"] == "train")
    assert {"distill_class", "distill_features"} < set(first)
    # Without its teacher the student is a detector like any other.
    detector = build_model(load_recipe(recipe).recipe, 4, pretrained=False)
    detector.load_state_dict(checkpoint.weights_of(mine))
    changed = checkpoint.load(teacher)
    changed["model"]["head.box.bias"] += 1
    checkpoint.save(teacher, changed)
    with pytest.raises(CheckpointError, match="the teacher's weights have changed"):
        resume_run(run, CPU, quiet=True)


def test_the_log_names_the_teacher(tmp_path: Path) -> None:
    trainer_of(tmp_path, write_teacher(tmp_path), "train.distill.feature_weight=0")
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"distill: .*teacher\.pt.* scores x 1,.* maps x 0 on objects.* x 12 ", log)
