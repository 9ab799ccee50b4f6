"""Data for a recipe whose own is not here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detcli.engine.profile import made_data
from detcli.engine.profile.made_data import NUM_TRAIN, NUM_VAL, num_classes, with_data
from detcli.engine.run.build import read_split
from detcli.recipe import load_recipe


def test_data_that_is_here_is_used(tmp_path: Path) -> None:
    said: list[str] = []
    shapes = load_recipe("atss_r18_shapes", [f"data.root={tmp_path}/later"]).recipe
    assert with_data(shapes, tmp_path, said.append) is shapes
    coco = load_recipe("atss_r50", [f"data.root={tmp_path}"]).recipe
    assert with_data(coco, tmp_path, said.append) is coco
    assert not said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [None, ["cat", "dog", "bird"]])
def test_data_that_is_missing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: list[str] | None
) -> None:
    monkeypatch.setattr(made_data, "SIZE", (60, 80))
    said: list[str] = []
    overrides = [f"data.root={tmp_path}/missing"]
    overrides += [f"data.classes={classes}"] if classes else []
    recipe = load_recipe("retinanet_r50", overrides).recipe
    made = with_data(recipe, tmp_path / "scratch", said.append)
    assert f"{tmp_path}/missing: no such folder" in said[0]
    assert made.model == recipe.model
    assert made.data.resize == recipe.data.resize
    count = num_classes(recipe)
    assert count == (3 if classes else 80)
    for split, images in (("train", NUM_TRAIN), ("val", NUM_VAL), ("test", NUM_VAL)):
        records = read_split(made, split)
        assert len(records) == images
        assert records.num_classes == count
        assert (records.sizes == (120, 160)).all()
        assert records.notes.clipped_boxes == 0
        assert len(np.unique(records.labels)) == min(count, len(records.labels))
    if classes:
        assert records.class_names == tuple(classes)
