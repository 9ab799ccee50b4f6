"""Caches of a recipe, where they fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from detcli.data.cache import decoded_bytes
from detcli.data.records import Records
from detcli.engine.run.log import RunLog
from detcli.engine.train import caching
from detcli.engine.train.caching import build_caches
from detcli.errors import UsageError
from detcli.recipe import Recipe, load_recipe
from tests.data.build import read_some_tall
from tests.recipes import write_tiny


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """6 images, two of them tall."""
    return read_some_tall(tmp_path, 6, 2)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_tiny(tmp_path), ["data.cache=ram"]).recipe


def test_one_cache_for_one_split(recipe: Recipe, records: Records, tmp_path: Path) -> None:
    """The overfit check trains and evaluates on the same images."""
    log = RunLog(tmp_path, quiet=True)
    first, second = build_caches(recipe, (records, records), log)
    assert first is second is not None
    assert "data.cache: 6 decoded images take 0.00 GiB" in (tmp_path / "log.txt").read_text()
    plain = load_recipe(write_tiny(tmp_path)).recipe
    assert build_caches(plain, (records, records), log) == (None, None)


def test_what_does_not_fit_is_refused(
    recipe: Recipe, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = decoded_bytes(records)
    monkeypatch.setattr(caching, "free_bytes", lambda shared: int(needed / 0.8) + 1)
    assert build_caches(recipe, (records,), RunLog(quiet=True))[0] is not None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"6 decoded images take 0\.00 GiB in 2 processes, more"):
        build_caches(recipe, (records,), RunLog(quiet=True))
