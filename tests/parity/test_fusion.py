"""wbf and nmw are those of ensemble-boxes, on pixels and whole data sets."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ensemble_boxes import non_maximum_weighted, weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.postprocess import join_models
from detcli.types import Detections
from tests.postprocess.tables import crowded, detections_from_xyxy, suppress

SIZE = 600.0
CONF_TYPES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")


def theirs(function, tables, *, class_agnostic=False, **options):
    """ensemble-boxes on each image: (corners in pixels, scores, labels) by falling score."""
    found = []
    for image in range(tables[0].num_images):
        parts = [table.take_images(np.array([image])) for table in tables]
        boxes = [part.boxes_xywh / SIZE for part in parts]
        xyxy = [np.concatenate([each[:, :2], each[:, :2] + each[:, 2:]], 1) for each in boxes]
        labels = [part.labels * (not class_agnostic) for part in parts]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # boxes without area, corners one rounding beyond 1
            fused, scores, fused_labels = function(
                xyxy, [part.scores for part in parts], labels, **options
            )
        found.append((fused.reshape(-1, 4) * SIZE, scores, fused_labels))
    return found


def assert_same(got: Detections, want, *, with_labels=True) -> None:
    for image, (boxes, scores, labels) in enumerate(want):
        rows = slice(got.offsets[image], got.offsets[image + 1])
        np.testing.assert_allclose(got.scores[rows], scores, atol=1e-6)
        # Fused scores may tie to the last digits, so boxes are compared in an order of their own.
        near = got.boxes_xywh[rows, :2]
        corners = np.concatenate([near, near + got.boxes_xywh[rows, 2:]], axis=1)
        ours = np.column_stack([got.labels[rows] * with_labels, corners])
        others = np.column_stack([labels, boxes])
        order, other = (np.lexsort(np.round(each, 2).T[::-1]) for each in (ours, others))
        np.testing.assert_allclose(ours[order], others[other], atol=1e-6 * SIZE)


@st.composite
def ensembles(draw):
    """Up to four models on the same images; any image or model may be empty."""
    num_images = draw(st.integers(1, 3))
    num_models = draw(st.integers(1, 4))
    count = st.sampled_from([0, 1, 5, 20])
    seed = draw(st.integers(0, 2**32 - 1))
    classes = draw(st.sampled_from([1, 3]))
    tables = []
    for model in range(num_models):
        counts = draw(st.lists(count, min_size=num_images, max_size=num_images))
        # One seed for the places, another for what each model makes of them.
        table = crowded([seed, 0], [40] * num_images, num_classes=classes, flat=0.1)
        rng = np.random.default_rng([seed, model])
        rows = np.concatenate(
            [40 * i + np.sort(rng.permutation(40)[:k]) for i, k in enumerate(counts)]
        )
        table = table.take(rows.astype(np.int64))
        corner, lengths = table.boxes_xywh[:, :2], table.boxes_xywh[:, 2:]
        # Inside the image: ensemble-boxes would clip them, and pixels have no such limit here.
        moved = np.clip(corner + rng.normal(0, 6, corner.shape), 0, SIZE - lengths)
        boxes = np.concatenate([moved, lengths], axis=1)
        tables.append(replace(table, boxes_xywh=boxes, scores=rng.uniform(0, 1, len(rows))))
    weights = draw(
        st.none() | st.lists(st.floats(0.1, 5), min_size=num_models, max_size=num_models)
    )
    return tables, weights


def given_weights(tables, weights):
    """Ones instead of None, so that models without a box in any image are counted."""
    return [1.0] * len(tables) if weights is None else weights


@settings(max_examples=150, deadline=None)
@given(
    ensembles(),
    st.sampled_from([0.0, 0.3, 0.55, 0.9]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from(CONF_TYPES),
    st.booleans(),
    st.booleans(),
)
def test_wbf_equals_ensemble_boxes(ensemble, iou, skip, conf_type, overflow, class_agnostic):
    tables, weights = ensemble
    overflow = overflow and conf_type == "avg"
    got = suppress(
        join_models(tables),
        method="wbf",
        iou_threshold=iou,
        skip_box_threshold=skip,
        conf_type=conf_type,
        allows_overflow=overflow,
        weights=given_weights(tables, weights),
        class_agnostic=class_agnostic,
        max_per_image=1000,
    )
    want = theirs(
        weighted_boxes_fusion,
        tables,
        weights=weights,
        iou_thr=iou,
        skip_box_thr=skip,
        conf_type=conf_type,
        allows_overflow=overflow,
        class_agnostic=class_agnostic,
    )
    assert_same(got, want, with_labels=not class_agnostic)


@settings(max_examples=100, deadline=None)
@given(
    ensembles(), st.sampled_from([0.0, 0.3, 0.55, 0.9]), st.sampled_from([0.0, 0.2]), st.booleans()
)
def test_nmw_equals_ensemble_boxes(ensemble, iou, skip, class_agnostic):
    tables, weights = ensemble
    got = suppress(
        join_models(tables),
        method="nmw",
        iou_threshold=iou,
        skip_box_threshold=skip,
        weights=given_weights(tables, weights),
        class_agnostic=class_agnostic,
        max_per_image=1000,
    )
    want = theirs(
        non_maximum_weighted,
        tables,
        weights=weights,
        iou_thr=iou,
        skip_box_thr=skip,
        class_agnostic=class_agnostic,
    )
    assert_same(got, want, with_labels=not class_agnostic)


def wbf_of(*boxes, model_of, scores, **options):
    """One image, one class, boxes in pixels; the fused boxes with their scores."""
    table = detections_from_xyxy([len(boxes)], boxes, scores, [0] * len(boxes))
    table = replace(table, extra={"model": np.asarray(model_of, np.float64)})
    fused = suppress(table, method="wbf", **options)
    return fused.boxes_xywh.tolist(), fused.scores.tolist()


def test_wbf_by_hand():
    """Two models agree on [0, 0, 10, 10], 10 wide and 12 wide; a third is silent."""
    agreed = {"model_of": [0, 1], "scores": [0.75, 0.25], "weights": [1, 1, 2]}
    confidence = {
        ("avg", False): 0.5 * 2 / 4,
        ("avg", True): 1.0 / 4,
        ("max", False): 0.75 / 2,
        ("box_and_model_avg", False): 1.0 / 2 * 2 / 4,
        ("absent_model_aware_avg", False): 1.0 / (2 + 2),
    }
    for (conf_type, overflow), expected in confidence.items():
        boxes, scores = wbf_of(
            [0, 0, 10, 10], [0, 0, 12, 10], conf_type=conf_type, allows_overflow=overflow, **agreed
        )
        assert boxes == [[0, 0, 10.5, 10]]
        assert scores == pytest.approx([expected])


def test_scores_of_zero_leave_the_first_box_as_it_is():
    boxes, scores = wbf_of([0, 0, 10, 10], [0, 0, 11, 10], model_of=[0, 0], scores=[0, 0])
    assert boxes == [[0, 0, 10, 10]]
    assert scores == [0]


def test_without_the_column_there_is_one_model():
    table = crowded(0, [30])
    one = join_models([table])
    for method in ("wbf", "nmw"):
        got, want = suppress(table, method=method), suppress(one, method=method)
        np.testing.assert_array_equal(got.boxes_xywh, want.boxes_xywh)
        np.testing.assert_array_equal(got.scores, want.scores)
