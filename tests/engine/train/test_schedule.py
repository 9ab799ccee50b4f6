import math

import pytest
import torch

from detcli.engine.train.schedule import Schedule
from detcli.recipe.sections.schedule import Schedule as Options


def schedule(*, steps_per_epoch=10, averaging=None, **changes):
    values = {
        "name": "step",
        "epochs": 12,
        "milestones": (8, 11),
        "gamma": 0.1,
        "min_lr_ratio": 0.0,
        "restarts": 1,
        "patience": 2,
        "monitor": "AP",
        "warmup": "none",
        "warmup_steps": 0,
        "warmup_ratio": 0.001,
    }
    return Schedule(Options.model_construct(**(values | changes)), steps_per_epoch, averaging)


def test_step_decays_at_milestones():
    plan = schedule()
    assert [plan.factor(step) for step in (0, 79, 80, 109, 110, 119)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_linear_warmup_is_a_line_from_the_ratio_to_one():
    plan = schedule(warmup="linear", warmup_steps=10)
    assert plan.factor(0) == pytest.approx(0.001)
    assert plan.factor(5) == pytest.approx((0.001 + 1) / 2)
    assert plan.factor(10) == 1.0


def test_constant_warmup():
    plan = schedule(warmup="constant", warmup_steps=10, warmup_ratio=1 / 3)
    assert plan.factor(9) == pytest.approx(1 / 3)
    assert plan.factor(10) == 1.0


def test_cosine_equals_torch():
    plan = schedule(name="cosine", min_lr_ratio=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=120, eta_min=0.1)
    for step in range(120):
        assert plan.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_cosine_with_restarts_equals_torch():
    plan = schedule(name="cosine_restarts", restarts=3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=40)
    for step in range(120):
        assert plan.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()
    assert plan.factor(120) == 0.0


def test_cosine_starts_where_the_warmup_ends():
    plan = schedule(name="cosine", warmup="linear", warmup_steps=20)
    assert plan.factor(20) == 1.0
    assert plan.factor(70) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_plateau_equals_torch():
    plan = schedule(name="plateau", gamma=0.5, patience=2)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=2, threshold=0.0
    )
    for value in (0.1, 0.2, 0.2, 0.19, 0.1, 0.15, 0.3, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1):
        plan.end_epoch({"AP": value})
        theirs.step(value)
        assert plan.factor(0) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_says_when_its_measure_is_absent():
    assert "not measured" in schedule(name="plateau").end_epoch({})


def test_plateau_state_survives_a_checkpoint():
    first, second = schedule(name="plateau"), schedule(name="plateau")
    for value in (0.5, 0.4, 0.4, 0.4):
        first.end_epoch({"AP": value})
    second.load_state_dict(first.state_dict())
    assert second.factor(0) == first.factor(0) == pytest.approx(0.1)


def test_apply_respects_each_groups_multiple():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:1], "lr_mult": 1.0}, {"params": parameters[1:], "lr_mult": 2.0}],
        lr=0.1,
    )
    assert schedule().apply(optimizer, 0.1, 80) == pytest.approx(0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.02])
