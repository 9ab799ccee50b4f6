"""The loader alone: rates against images whose decoding takes a known time, and what follows."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detcli.data.transforms.build import BEFORE_RESIZE
from detcli.data.transforms.geometry import Flip
from detcli.engine.profile import loader as module
from detcli.engine.profile import settings as settings_module
from detcli.engine.profile.loader import (
    SAMPLE_HEADER,
    SETTING_HEADER,
    LoaderProfile,
    Source,
    chosen_images,
    compare_loaders,
    images_per_s,
    may_cache,
    measure_loader,
    restart_ms,
    sample_rows,
    setting_rows,
    worker_notes,
)
from detcli.engine.profile.sample import _timed_sample, name_of, sample_ms
from detcli.engine.profile.settings import (
    Measured,
    Setting,
    best_workers,
    combined,
    other_settings,
    worker_settings,
)
from detcli.recipe import diff_recipes, override_recipe
from tests.engine.profile.trials import CPU, QUIET, read_slowly, tiny

SLOW_SECONDS = 0.05
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


def test_rates_are_those_of_slow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_slowly(monkeypatch, SLOW_SECONDS)
    source = Source(tiny(tmp_path), CPU)
    alone = images_per_s(source.loader(PLAIN), seconds=0.5)
    assert 0.3 / SLOW_SECONDS < alone < 1 / SLOW_SECONDS
    beside = images_per_s(source.loader(replace(PLAIN, workers=2)), seconds=1.0)
    assert 1.3 * alone < beside < 3 / SLOW_SECONDS
    assert images_per_s(source.loader(replace(PLAIN, cache="ram")), seconds=0.2) > 2 * alone


def test_a_slow_decode_asks_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_slowly(monkeypatch, SLOW_SECONDS)
    monkeypatch.setattr(settings_module, "cores", lambda: 2)
    monkeypatch.setattr(module, "may_cache", lambda source: (False, ["too large"]))
    found = measure_loader(tiny(tmp_path), CPU, QUIET, seconds=0.3)
    assert found.current is found.settings[0]
    assert found.current.setting.workers == 0
    assert found.recommended.setting.workers == 2
    assert found.gain > 1.3
    assert found.gain == found.recommended.images_per_s / found.current.images_per_s
    assert found.sample_ms["decode"] > 0.5 * sum(found.sample_ms.values())
    assert found.sample_ms["decode"] >= 1e3 * SLOW_SECONDS
    assert found.restart_ms["fresh"] > 0
    assert found.notes[0] == "too large"
    assert "each step waits" in found.notes[1]
    check_document(found)


def check_document(found: LoaderProfile) -> None:
    """Everything is plain, and as wide as the tables' heads."""
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["settings"][0] == document["current"]
    assert document["recommended"]["workers"] == 2
    assert document["current"]["images_per_s"] > 0
    assert {each["factor"] for each in document["settings"]} == {
        "recipe",
        "workers",
        "prefetch_factor",
        "recommended",
    }
    assert document["images"] == 8
    assert {len(row) for row in setting_rows(found)} == {len(SETTING_HEADER)}
    assert setting_rows(found)[0][-1] == "1.00"
    assert {len(row) for row in sample_rows(found)} == {len(SAMPLE_HEADER)}
    assert sample_rows(found)[-1][0] == "sample"


def test_a_timed_sample_is_the_data_sets_own(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, data={"augment": {"flip": {"horizontal": 1.0}}})
    dataset = Source(recipe, CPU).loader(PLAIN).dataset
    mine, theirs = _timed_sample(dataset, 3, defaultdict(float)), dataset[0, 3]
    assert torch.equal(mine.image, theirs.image)
    assert torch.equal(mine.boxes, theirs.boxes)
    parts = sample_ms(dataset, batch=2, pad_multiple=32, seconds=0.0)
    assert list(parts) == ["decode", "resize", "flip", "collate"]
    assert min(parts.values()) > 0


def test_transforms_are_named_as_in_recipes() -> None:
    for name, kind in BEFORE_RESIZE.items():
        assert name_of(kind.__new__(kind)) == name
    assert name_of(Flip(horizontal=0.5, vertical=0.0)) == "flip"


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


def test_epochs_begin_sooner_with_workers_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fresh workers must be started first, which the slow start of each makes plain.
    monkeypatch.setattr("detcli.data.loader._start_worker", lambda number: time.sleep(0.3))
    source = Source(tiny(tmp_path), CPU)
    found = restart_ms(source, replace(PLAIN, workers=1))
    assert found["fresh"] > found["persistent"] + 250
    assert found["fresh"] < 60_000


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


def test_two_loaders_are_compared_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_slowly(monkeypatch, SLOW_SECONDS)
    recipe = tiny(tmp_path)
    faster = override_recipe(recipe, ["data.workers=2"], "test")
    assert compare_loaders(recipe, faster, CPU, QUIET, seconds=0.6).median > 1.3
