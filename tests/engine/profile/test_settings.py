"""Settings of the loader that are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detcli.engine.profile import settings as settings_module
from detcli.engine.profile.settings import (
    Measured,
    Setting,
    best_workers,
    combined,
    other_settings,
    worker_settings,
)
from detcli.recipe import diff_recipes, override_recipe
from tests.engine.profile.trials import tiny

PLAIN = Setting(
    workers=0, pin_memory=True, prefetch_factor=2, persistent_workers=True, cache="none"
)


def measured(factor: str, rate: float, **changes: object) -> Measured:
    return Measured(factor, replace(PLAIN, **changes), rate, rate, rate)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{}, {"workers": 3, "prefetch_factor": 4, "pin_memory": False, "cache": "ram"}]
)
def test_a_setting_is_what_its_overrides_make(tmp_path: Path, changes: dict[str, object]) -> None:
    setting = replace(PLAIN, **changes)  # type: ignore[arg-type]
    recipe = override_recipe(tiny(tmp_path), setting.overrides(), "test")
    assert Setting.of(recipe) == setting


def test_workers_are_tried_up_to_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "cores", lambda: 6)
    recipe = tiny(tmp_path, "data.workers=3", "data.prefetch_factor=4")
    (first, current), *others = worker_settings(Setting.of(recipe))
    assert (first, current.workers) == ("recipe", 3)
    assert [setting.workers for _, setting in others] == [0, 1, 2, 4, 6]
    for name, setting in others:
        assert name == "workers"
        changed = diff_recipes(recipe, override_recipe(recipe, setting.overrides(), "test"))
        expected = {"data.workers"} | ({"data.prefetch_factor"} if not setting.workers else set())
        assert {key for key, _, _ in changed} == expected


def test_other_keys_change_one_at_a_time() -> None:
    anchor = replace(PLAIN, workers=2)
    found = list(other_settings(anchor, cuda=True, caches=True))
    assert [name for name, _ in found] == ["prefetch_factor", "pin_memory", "cache"]
    for name, setting in found:
        assert getattr(setting, name) != getattr(anchor, name)
        assert replace(setting, **{name: getattr(anchor, name)}) == anchor
    found = list(other_settings(anchor, cuda=False, caches=False))
    assert [name for name, _ in found] == ["prefetch_factor"]


def test_the_fewest_workers_that_are_as_fast() -> None:
    none = measured("recipe", 500.0)
    few, more, most = (
        measured("workers", rate, workers=count)
        for count, rate in ((1, 100.0), (2, 194.0), (4, 200.0))
    )
    assert best_workers([none, few, more, most]) is more  # 0 workers hold the step up
    assert best_workers([most, none, few, more]) is most  # nothing to gain from a change
    assert best_workers([few, none, more, most]) is more


def test_keys_that_help_are_combined_at_their_best_value() -> None:
    anchor = measured("workers", 100.0, workers=2)
    others = [
        measured("prefetch_factor", 110.0, workers=2, prefetch_factor=4),
        measured("prefetch_factor", 140.0, workers=2, prefetch_factor=8),
        measured("prefetch_factor", 141.0, workers=2, prefetch_factor=16),
        measured("pin_memory", 104.0, workers=2, pin_memory=False),
        measured("cache", 300.0, workers=2, cache="ram"),
    ]
    expected = replace(anchor.setting, prefetch_factor=8, cache="ram")
    assert combined(anchor, others) == expected
    assert combined(anchor, others[3:4]) == anchor.setting
