"""Tables of several models become one, and their weights mean what ensemble-boxes makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ensemble_boxes import nms as ensemble_boxes_nms
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.errors import DataError, UsageError
from detcli.postprocess import join_models
from tests.postprocess.tables import crowded, suppress

counts = st.lists(st.integers(0, 4), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(counts, min_size=1, max_size=4))
def test_images_hold_their_models_one_after_the_other(counts):
    tables = [crowded(seed, each) for seed, each in enumerate(counts)]
    joined = join_models(tables)
    assert joined.num_images == 3
    for image in range(3):
        parts = [table.take_images(np.array([image])) for table in tables]
        whole = joined.take_images(np.array([image]))
        for name in ("boxes_xywh", "scores", "labels"):
            want = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(getattr(whole, name), want)
        for name in parts[0].extra:
            want = np.concatenate([part.extra[name] for part in parts])
            np.testing.assert_array_equal(whole.extra[name], want)
        want = np.repeat(np.arange(len(tables)), [len(part.scores) for part in parts])
        np.testing.assert_array_equal(whole.extra["model"], want)
        assert whole.extra["model"].dtype == np.float64


def test_only_columns_that_all_models_have_stay():
    first, second = crowded(0, [2]), crowded(1, [3])
    joined = join_models([first, replace(second, extra={"iou": second.extra["iou"]})])
    assert set(joined.extra) == {"iou", "model"}


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="first model has 2 images, model number 1 has 1"):
        join_models([crowded(0, [1, 1]), crowded(0, [1])])
    with pytest.raises(UsageError, match="at least one"):
        join_models([])


def test_the_model_column_ends_with_suppression():
    joined = join_models([crowded(0, [5]), crowded(1, [5])])
    for method in ("nms", "wbf"):
        assert set(suppress(joined, method=method).extra) == set(joined.extra) - {"model"}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0.1, 5), min_size=3, max_size=3))
def test_weights_of_other_methods_are_those_of_ensemble_boxes_nms(seed, weights):
    tables = [crowded([seed, model], [30]) for model in range(3)]
    got = suppress(
        join_models(tables), method="nms", iou_threshold=0.5, weights=weights, max_per_image=1000
    )
    boxes = [table.boxes_xywh / 600 for table in tables]
    xyxy = [np.concatenate([each[:, :2], each[:, :2] + each[:, 2:]], 1) for each in boxes]
    _, scores, labels = ensemble_boxes_nms(
        xyxy,
        [table.scores for table in tables],
        [table.labels for table in tables],
        iou_thr=0.5,
        weights=weights,
    )
    order = np.argsort(-scores)
    np.testing.assert_allclose(got.scores, scores[order], rtol=1e-12)
    np.testing.assert_array_equal(got.labels, labels[order])


@pytest.mark.parametrize("method", ["nms", "soft", "wbf", "nmw"])
def test_weights_must_fit_the_models(method):
    joined = join_models([crowded(0, [5]), crowded(1, [5]), crowded(2, [5])])
    with pytest.raises(UsageError, match="one per model, that is 3, got 2"):
        suppress(joined, method=method, weights=[1.0, 2.0])
    with pytest.raises(UsageError, match="one per model, that is 1, got 2"):
        suppress(crowded(0, [5]), method=method, weights=[1.0, 2.0])
    with pytest.raises(UsageError, match="expected numbers above 0"):
        suppress(joined, method=method, weights=[1.0, 0.0, 1.0])
    # A model that found nothing has a weight all the same.
    silent = join_models([crowded(0, [5]), crowded(1, [0])])
    scores = {len(w): suppress(silent, method=method, weights=w).scores for w in ([1], [1, 1])}
    assert (method == "nmw") == np.array_equal(scores[1], scores[2])
