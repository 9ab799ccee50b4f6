"""Time and memory of the evaluation beside pycocotools on the same data (PEERS: slow COCO
evaluation), and of its bootstrap beside pycocotools' accumulation."""

from __future__ import annotations

import json
import subprocess
import sys
from time import perf_counter

import numpy as np
import pytest

from detcli.evaluation import METRIC_NAMES, bootstrap, evaluate_coco, match
from tests.benchmarks.conftest import Table
from tests.benchmarks.memory import peak_mib
from tests.evaluation.oracle import large_data_set, run_pycocotools
from tests.paths import ROOT

NUM_IMAGES = 5000
RESAMPLES = 1000


def data_set(num_images):
    return large_data_set(0, num_images=num_images, num_classes=80, boxes_per_image=100)


def measure_ours(num_images: int) -> dict[str, float]:
    ground_truth, detections = data_set(num_images)
    evaluate_coco(*data_set(10))  # loads the kernels
    seconds = float("inf")
    for _ in range(3):
        start = perf_counter()
        result = evaluate_coco(ground_truth, detections)
        seconds = min(seconds, perf_counter() - start)
    return {"seconds": seconds, "mib": peak_mib(), "AP": result.metrics["AP"]}


def measure_theirs(num_images: int) -> dict[str, float]:
    ground_truth, detections = data_set(num_images)
    start = perf_counter()
    evaluation = run_pycocotools(ground_truth, detections)
    seconds, mib = perf_counter() - start, peak_mib()
    start = perf_counter()
    evaluation.accumulate()
    accumulate = perf_counter() - start
    return {"seconds": seconds, "mib": mib, "AP": evaluation.stats[0], "accumulate": accumulate}


def in_its_own_process(function, num_images: int) -> dict[str, float]:
    """The last line that a measurement prints there."""
    code = (
        "import json\n"
        f"from tests.benchmarks.test_evaluation import {function.__name__} as measure\n"
        f"print(); print(json.dumps(measure({num_images})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def theirs() -> dict[str, float]:
    return in_its_own_process(measure_theirs, NUM_IMAGES)


@pytest.mark.bench
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_evaluation_beside_pycocotools(theirs, table: Table) -> None:
    ours = in_its_own_process(measure_ours, NUM_IMAGES)
    assert ours["AP"] == pytest.approx(theirs["AP"], abs=1e-12)
    faster, smaller = theirs["seconds"] / ours["seconds"], theirs["mib"] / ours["mib"]
    what = f"COCO evaluation, {NUM_IMAGES} images, {100 * NUM_IMAGES} detections"
    table.add(
        f"time of {what}",
        f"{ours['seconds']:.3f} s",
        f"pycocotools {theirs['seconds']:.1f} s",
        faster,
        at_least=10,
        floor=10,
    )
    table.add(
        f"memory of {what}",
        f"{ours['mib']:.0f} MiB",
        f"pycocotools {theirs['mib']:.0f} MiB",
        1 / smaller,
        at_most=0.33,
        ceiling=0.33,
    )


@pytest.mark.bench
def test_bootstrap_beside_pycocotools(theirs, table: Table) -> None:
    """pycocotools' accumulate gives the twelve numbers of one resample of one system."""
    ground_truth, detections = data_set(NUM_IMAGES)
    rows = np.flatnonzero(np.random.default_rng(0).random(len(detections.scores)) < 0.9)
    pair = [match(ground_truth, detections), match(ground_truth, detections.take(rows))]
    bootstrap(ground_truth, pair, resamples=1)  # loads the kernels
    start = perf_counter()
    bootstrap(ground_truth, pair, metrics=["AP"], resamples=RESAMPLES)
    one_metric = perf_counter() - start
    few = RESAMPLES // 10
    start = perf_counter()
    bootstrap(ground_truth, pair, metrics=METRIC_NAMES, resamples=few)
    all_metrics = (perf_counter() - start) / few / len(pair)
    ratio = theirs["accumulate"] / all_metrics
    print(
        f"\npaired bootstrap of two systems, {NUM_IMAGES} images: {one_metric:.1f} s per "
        f"{RESAMPLES} resamples of AP"
    )
    table.add(
        f"twelve metrics of one resample, {NUM_IMAGES} images",
        f"{1000 * all_metrics:.1f} ms",
        f"pycocotools' accumulate {theirs['accumulate']:.2f} s",
        ratio,
        at_least=100,
        floor=100,
    )
