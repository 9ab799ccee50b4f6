"""The compiled part of the bootstrap. Importing it compiles or loads it.

Letters: R resamples, I images, K classes, D ranked detections, U events: those detections that
are true positive or ignored at some threshold, T IoU thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detcli.jit import jit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detcli.types import FloatArray, IntArray


@jit("i8[:, ::1](i8[::1], u4[::1], i8[::1], i4[:, ::1])")
def weighted_counts(
    class_offsets: IntArray,
    image: NDArray[np.uint32],
    amount: IntArray,
    multiplicity: NDArray[np.int32],
) -> IntArray:
    """(R, K) sum of `amount` over the rows of each class, each as often as its image is drawn."""
    num_classes = len(class_offsets) - 1
    counts = np.zeros((len(multiplicity), num_classes), np.int64)
    for resample in range(len(multiplicity)):
        drawn = multiplicity[resample]
        for label in range(num_classes):
            total = 0
            for row in range(class_offsets[label], class_offsets[label + 1]):
                total += drawn[image[row]] * amount[row]
            counts[resample, label] = total
    return counts


@jit("void(f8[::1], i8, i8[::1])")
def _objects_needed(recall_thresholds: FloatArray, num_objects: int, needed: IntArray) -> None:
    """Fill in the smallest number of found objects whose recall reaches each threshold."""
    for index in range(len(recall_thresholds)):
        threshold = recall_thresholds[index]
        count = np.int64(threshold * num_objects)
        while count > 0 and (count - 1) / num_objects >= threshold:
            count -= 1
        while count / num_objects < threshold:
            count += 1
        needed[index] = count


@jit("void(u2, u2, i8, i8, i8[:, ::1], i8[::1], f8[:, ::1])")
def _count_detection(
    true_positive: int,
    ignored: int,
    copies: int,
    seen: int,
    state: IntArray,
    needed: IntArray,
    best: FloatArray,
) -> None:
    """Count the copies of a detection that found an object or is ignored, at each threshold.

    seen: detections so far, these copies included; state (T, 3): objects found, detections
    ignored and recall thresholds reached so far; best (T, recall thresholds + 1): best precision
    seen where so many recall thresholds are reached.

    Copies of a true positive in a row: the last one has the best precision and the largest
    recall, so it alone is noted.
    """
    t = 0
    bits = true_positive | ignored
    while bits:
        if (true_positive >> t) & 1:
            found, reached = state[t, 0] + copies, state[t, 2]
            while reached < len(needed) and needed[reached] <= found:
                reached += 1
            # The tiny number is pycocotools', as in average_precision.
            precision = found / (seen - state[t, 1] + np.finfo(np.float64).eps)
            best[t, reached] = max(best[t, reached], precision)
            state[t, 0], state[t, 2] = found, reached
        elif bits & 1:
            state[t, 1] += copies
        bits >>= 1
        t += 1


@jit("f8(f8[::1])")
def _interpolated_mean(best: FloatArray) -> float:
    """Mean over recall thresholds of the best precision there or at a higher recall."""
    total = 0.0
    for reached in range(len(best) - 2, 0, -1):
        best[reached] = max(best[reached], best[reached + 1])
    for precision in best[1:]:
        total += precision
    return total / (len(best) - 1)


@jit("void(i8[:, ::1], u2[:, ::1], i8[::1], i8[::1], i8[::1], i8[:, ::1], f8[:, ::1])")
def _count_class(
    runs: IntArray,
    bits: NDArray[np.uint16],
    copies: IntArray,
    seen_until: IntArray,
    needed: IntArray,
    state: IntArray,
    best: FloatArray,
) -> None:
    """Count the events of one class; copies (U,), the other arguments as in the functions around.

    The copies of a run alternate: a b a b, not a a b b.
    """
    run_end = 0
    for event in range(len(runs)):
        if copies[event] == 0 or event < run_end:
            continue
        row, first, length = runs[event]
        seen = seen_until[row]
        if copies[event] == 1 or length == 1:
            found, ignored = bits[event]
            _count_detection(found, ignored, copies[event], seen, state, needed, best)
            continue
        run_end = event
        while run_end < len(runs) and runs[run_end, 1] == first:
            run_end += 1
        before = seen - copies[event] * (row - first + 1)
        for copy in range(copies[event]):
            for other in range(event, run_end):
                found, ignored = bits[other]
                seen = before + copy * length + runs[other, 0] - first + 1
                _count_detection(found, ignored, 1, seen, state, needed, best)


@jit(
    "void(f8[:, :, ::1], i8[::1], u4[::1], i8[::1], i8[:, ::1], u2[:, ::1], i8[:, ::1],"
    " i4[:, ::1], f8[::1])"
)
def weighted_average_precision(
    result: FloatArray,
    class_offsets: IntArray,
    image: NDArray[np.uint32],
    event_offsets: IntArray,
    runs: IntArray,
    bits: NDArray[np.uint16],
    num_objects: IntArray,
    multiplicity: NDArray[np.int32],
    recall_thresholds: FloatArray,
) -> None:
    """Fill in (R, K, T) average precision; NaN where a class has no object in a resample.

    class_offsets (K + 1,) into image (D,); event_offsets (K + 1,) into runs and bits;
    runs (U, 3): the event's row, and first row and length of its run, the neighbours of equal
    image and score; bits (U, 2): thresholds at which it is true positive, and ignored;
    num_objects (R, K); multiplicity (R, I).
    """
    needed = np.empty(len(recall_thresholds), np.int64)
    best = np.empty((result.shape[2], len(recall_thresholds) + 1))
    state = np.empty((result.shape[2], 3), np.int64)
    seen_until = np.empty(len(image), np.int64)  # detections up to each row, copies counted
    copies = np.empty(len(runs), np.int64)
    for resample in range(len(multiplicity)):
        drawn = multiplicity[resample]
        for label in range(len(class_offsets) - 1):
            if num_objects[resample, label] == 0:
                result[resample, label] = np.nan
                continue
            seen = 0
            for row in range(class_offsets[label], class_offsets[label + 1]):
                seen += drawn[image[row]]
                seen_until[row] = seen
            first, end = event_offsets[label], event_offsets[label + 1]
            for event in range(first, end):
                copies[event] = drawn[image[runs[event, 0]]]
            _objects_needed(recall_thresholds, num_objects[resample, label], needed)
            best[:], state[:] = 0.0, 0
            _count_class(
                runs[first:end], bits[first:end], copies[first:end], seen_until, needed, state, best
            )
            for t in range(len(best)):
                result[resample, label, t] = _interpolated_mean(best[t])
