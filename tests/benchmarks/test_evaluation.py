"""Speed of the evaluation beside pycocotools on the same data (PEERS: slow COCO evaluation)."""

from __future__ import annotations

from time import perf_counter

import pytest

from detcli.evaluation import evaluate_coco
from tests.evaluation.oracle import large_data_set, run_pycocotools

NUM_IMAGES = 1000


@pytest.mark.bench
def test_evaluation_is_faster_than_pycocotools() -> None:
    ground_truth, detections = large_data_set(
        0, num_images=NUM_IMAGES, num_classes=80, boxes_per_image=100
    )
    evaluate_coco(ground_truth, detections)  # loads the kernels
    ours = float("inf")
    for _ in range(3):
        start = perf_counter()
        result = evaluate_coco(ground_truth, detections)
        ours = min(ours, perf_counter() - start)
    start = perf_counter()
    stats = run_pycocotools(ground_truth, detections).stats
    theirs = perf_counter() - start
    assert result.metrics["AP"] == pytest.approx(stats[0], abs=1e-12)
    print(
        f"\nCOCO evaluation, {NUM_IMAGES} images, {len(detections.scores)} detections: "
        f"pycocotools {theirs:.2f} s, detcli {ours:.3f} s, {theirs / ours:.0f} times as fast"
    )
    assert theirs / ours >= 10
