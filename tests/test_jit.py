"""The sort that kernels share, and what a user sees of compilation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcli.jit import descending_order
from tests.paths import ROOT

lengths = st.lists(st.sampled_from([0, 1, 3, 39, 40, 200]), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(lengths, st.integers(0, 2**32 - 1), st.sampled_from([2, 50, 10**9]))
def test_order_is_descending_and_stable_within_segments(counts, seed, distinct):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 10.0 ** rng.integers(-300, 300), min(distinct, 500))
    scores = np.append(values, [0.0, -0.0])[rng.integers(0, len(values) + 2, sum(counts))]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    order = descending_order(scores, offsets)
    segment = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_array_equal(order, np.lexsort((np.arange(len(scores)), -scores, segment)))


def run(code: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_a_slow_first_compilation_is_announced_in_one_line_and_cached(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run("import detcli.evaluation.kernels.match", **cache)
    assert first.stdout == ""
    assert first.stderr.count("\n") == 1
    assert "compiling kernels, once" in first.stderr
    assert run("import detcli.evaluation.kernels.match", **cache).stderr == ""


OVERLAP = """
import numpy as np
from detcli.postprocess.kernels.nms import nms_kernel
twice = np.array([[0.0, 0.0, 9.0, 9.0]] * 2)
print(len(nms_kernel(twice, np.arange(2), np.array([0, 2]), np.full(2, 0.5), False, 9)))
"""


@pytest.mark.slow
def test_an_edit_of_an_inlined_helper_recompiles_the_kernels_that_use_it(tmp_path):
    """numba's own cache looks at the kernel's file alone."""
    shutil.copytree(ROOT / "detcli", tmp_path / "detcli", ignore=shutil.ignore_patterns("*cache*"))
    variables = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    assert run(OVERLAP, tmp_path, **variables).stdout == "1\n"
    assert run(OVERLAP, tmp_path, **variables).stderr == ""
    helpers = tmp_path / "detcli" / "jit.py"
    text = helpers.read_text()
    edited = text.replace("return width * height if", "return 0.0 * width * height if")
    assert edited != text
    helpers.write_text(edited)
    done = run(OVERLAP, tmp_path, **variables)
    assert done.stdout == "2\n"
    assert "compiling kernels, once" in done.stderr


@pytest.mark.slow
def test_importing_is_cheap_and_using_never_needs_torch():
    """Start-up is part of the product: numba comes with the first kernel, torch never."""
    code = """
import sys
import detcli.evaluation, detcli.evaluation.report, detcli.postprocess
heavy = {"numba", "torch", "pycocotools", "rich", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
from tests.evaluation.oracle import large_data_set
truth, found = large_data_set(0, num_images=2)
kept = detcli.postprocess.suppress(
    found, method="nms", iou_threshold=0.5, class_agnostic=False, max_per_image=100, metric="iou")
detcli.evaluation.evaluate_coco(truth, kept)
assert "torch" not in sys.modules
"""
    run(code)
