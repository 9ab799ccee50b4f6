"""Wrong detections as patches."""

from __future__ import annotations

import numpy as np
import pytest

from detcli.data.images import read_image
from detcli.data.records import Records
from detcli.data.transforms.patches import Patches
from detcli.engine.inject.hard_negatives import collect, wrong_detections
from detcli.engine.run.log import RunLog
from detcli.types import Detections

QUIET = RunLog(quiet=True)


def detections_of(first: list[tuple], second: list[tuple]) -> Detections:
    """Of both images: (score, label, left, top, width, height)."""
    rows = np.array([*first, *second], np.float64).reshape(-1, 6)
    return Detections(
        offsets=np.array([0, len(first), len(rows)], np.int64),
        boxes_xywh=rows[:, 2:],
        scores=rows[:, 0],
        labels=rows[:, 1].astype(np.int64),
    )


def test_only_what_is_wrong_and_away_from_every_object_is_a_hard_negative(records: Records) -> None:
    detections = detections_of(
        [
            (0.9, 1, 20, 20, 30, 20),  # the cat
            (0.8, 1, 22, 22, 30, 20),  # the cat again
            (0.7, 0, 20, 20, 30, 20),  # the cat, taken for a dog
            (0.6, 1, 30, 85, 30, 20),  # in the crowd
            (0.55, 1, 100, 20, 30, 20),  # wrong
            (0.5, 0, 102, 21, 30, 20),  # the same place as another class
            (0.45, 1, 130, 30, 30, 20),  # wrong, but cut by the border
            (0.2, 1, 60, 60, 20, 20),  # wrong, but below the score
        ],
        [(0.95, 0, 50, 50, 20, 30), (0.4, 0, 100, 20, 3, 30)],  # wrong, and too narrow
    )
    found = wrong_detections(records, detections, 0.3)
    assert [(cut.image, cut.score, cut.label) for cut in found] == [
        (1, 0.95, None),
        (0, 0.55, None),
    ]
    assert found[1].box.tolist() == [100, 20, 130, 40]
    assert [cut.score for cut in wrong_detections(records, detections, 0.0)] == [0.95, 0.55, 0.2]


def test_patches_show_what_they_were_cut_out_of(records: Records) -> None:
    detections = detections_of([], [(0.95, 0, 50, 50, 20, 30), (0.6, 0, 100, 20, 20, 30)])
    patches = collect(records, detections, QUIET, min_score=0.3, max_patches=10, seed=0)
    assert [patch.score for patch in patches.negatives] == [0.95, 0.6]
    (cat,) = patches.objects  # the dog touches the border
    assert patches.class_names == ("dog", "cat")
    assert cat.sample.labels.tolist() == [1]
    assert cat.source == records.path(0)
    for patch, index, (left, top) in ((patches.negatives[0], 1, (50, 50)), (cat, 0, (20, 20))):
        x1, y1, x2, y2 = patch.core
        pixels = read_image(records.path(index))[top : top + y2 - y1, left : left + x2 - x1]
        core = patch.sample.image.permute(1, 2, 0).numpy()[y1:y2, x1:x2]
        assert np.array_equal(core, pixels)
    few = collect(records, detections, QUIET, min_score=0.3, max_patches=1, seed=0)
    assert [patch.score for patch in few.negatives] == [0.95]


@pytest.fixture
def patches(records: Records) -> Patches:
    detections = detections_of([], [(0.95, 0, 50, 50, 20, 30), (0.6, 0, 100, 20, 20, 30)])
    return collect(records, detections, QUIET, min_score=0.3, max_patches=10, seed=0)
