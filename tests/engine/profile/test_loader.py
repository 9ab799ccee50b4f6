"""The loader alone: rates where decoding an image takes a known time, and what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detcli.engine.profile import loader as module
from detcli.engine.profile import report
from detcli.engine.profile import settings as settings_module
from detcli.engine.profile.loader import (
    LoaderProfile,
    Source,
    chosen_images,
    compare_loaders,
    images_per_s,
    may_cache,
    measure_loader,
    restart_ms,
    worker_notes,
)
from detcli.engine.profile.settings import Setting
from detcli.recipe import override_recipe
from tests.engine.profile.made import made
from tests.engine.profile.trials import CPU, QUIET, tiny
from tests.ticks import TICK_SECONDS, Ticks

pytestmark = pytest.mark.slow

SLOW_SECONDS = 0.05


PLAIN = Setting(
    workers=0, pin_memory=True, prefetch_factor=2, persistent_workers=True, cache="none"
)


def test_rates_are_those_of_slow_files(tmp_path: Path, ticks: Ticks) -> None:
    """Two images a batch. A batch of workers, or from memory, costs a look at the clock."""
    ticks.decoding_takes(SLOW_SECONDS)
    source = Source(tiny(tmp_path), CPU)
    alone = images_per_s(source.loader(PLAIN), seconds=0.5)
    assert alone == pytest.approx(1 / SLOW_SECONDS, rel=0.02)
    for setting in (replace(PLAIN, workers=2), replace(PLAIN, cache="ram")):
        rate = images_per_s(source.loader(setting), seconds=0.01)
        assert rate == pytest.approx(2 / TICK_SECONDS, rel=0.2)


def test_a_slow_decode_asks_for_workers(
    tmp_path: Path, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.decoding_takes(SLOW_SECONDS)
    monkeypatch.setattr(settings_module, "cores", lambda: 2)
    monkeypatch.setattr(module, "may_cache", lambda source: (False, ["too large"]))
    found = measure_loader(tiny(tmp_path), CPU, QUIET, seconds=0.06)
    assert found.current is found.settings[0]
    assert found.current.setting.workers == 0
    assert found.recommended.setting.workers == 1  # all of its work is hidden
    assert found.gain > 10
    assert found.gain == found.recommended.images_per_s / found.current.images_per_s
    assert found.sample_ms["decode"] == pytest.approx(1e3 * SLOW_SECONDS, rel=0.05)
    assert found.sample_ms["decode"] > 0.9 * sum(found.sample_ms.values())
    assert found.notes[0] == "too large"
    assert "each step waits" in found.notes[1]
    check_document(found)


def check_document(found: LoaderProfile) -> None:
    """Everything is plain, and as wide as the tables' heads."""
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["settings"][0] == document["current"]
    assert document["recommended"]["workers"] == 1
    assert document["current"]["images_per_s"] > 0
    assert {each["factor"] for each in document["settings"]} == {
        "recipe",
        "workers",
        "prefetch_factor",
        "recommended",
    }
    assert document["images"] == 8
    settings, sample = report.tables(made(loader=found), "cpu")
    assert {len(row) for row in settings.rows} == {len(settings.columns)}
    assert settings.rows[0][-1] == "1.00"
    assert {len(row) for row in sample.rows} == {len(sample.columns)}
    assert sample.rows[-1][0] == "sample"
    assert sample.rows[-1][2] == "100.0%"


def test_images_are_all_where_a_share_has_nothing_to_augment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(tmp_path)
    source = Source(recipe, CPU)
    monkeypatch.setattr(module, "MOST_IMAGES", 1)
    augment = recipe.data.augment.model_dump()
    assert len(chosen_images(source.records, augment)) == 1
    needs_two = augment | {"mosaic": {"probability": 1.0}}
    assert chosen_images(source.records, needs_two) is source.records
    caches, (note,) = may_cache(source)
    assert not caches
    assert "need all images" in note


def test_a_cache_that_does_not_fit_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tiny(tmp_path), CPU)
    monkeypatch.setattr(module, "free_bytes", lambda *, shared: None)
    assert may_cache(source) == (True, [])
    monkeypatch.setattr(module, "free_bytes", lambda *, shared: 8 * 64 * 64 * 3)
    caches, (note,) = may_cache(source)
    assert not caches
    assert "GiB are free" in note


def test_epochs_begin_sooner_with_workers_that_stay(tmp_path: Path, ticks: Ticks) -> None:
    """Fresh workers must be started first."""
    ticks.starting_a_worker_takes(0.3)
    source = Source(tiny(tmp_path), CPU)
    found = restart_ms(source, replace(PLAIN, workers=1))
    assert found["fresh"] == pytest.approx(found["persistent"] + 300, abs=50)
    assert found["persistent"] < 50


@pytest.mark.parametrize(
    ("workers", "stay", "restart", "words"),
    [
        (0, True, {"fresh": 9.0, "persistent": 1.0}, "data.workers is 0"),
        (2, False, {"fresh": 9.0, "persistent": 1.0}, "in 9 ms, persistent ones in 1 ms"),
        (2, False, {"fresh": 1.0, "persistent": 9.0}, None),
        (2, True, {"fresh": 9.0, "persistent": 1.0}, None),
    ],
)
def test_what_rates_do_not_show_is_said(
    workers: int, stay: bool, restart: dict[str, float], words: str | None
) -> None:
    current = replace(PLAIN, workers=workers, persistent_workers=stay)
    notes = worker_notes(current, restart)
    assert len(notes) == (words is not None)
    assert words is None or words in notes[0]


def test_two_loaders_are_compared_in_turns(tmp_path: Path, ticks: Ticks) -> None:
    ticks.decoding_takes(SLOW_SECONDS)
    recipe = tiny(tmp_path)
    faster = override_recipe(recipe, ["data.workers=2"], "test")
    assert compare_loaders(recipe, faster, CPU, QUIET, seconds=0.1).median > 10
