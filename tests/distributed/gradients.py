"""Run in two processes: how far the gradients of two halves of a batch, averaged over the ranks,
are from those of the whole batch, for every detector.

Argument: file for the results, {case/kind: {parameter: largest difference, as a share of its
largest gradient}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import torch

from detcli.engine.run import distributed
from detcli.engine.train.build import wrap
from tests.distributed.joint_batch import CASES, COMBINATIONS, build, gradients, joint_batch

# Gradients of a parameter that are all below this share of the detector's largest one are compared
# with that: sums that almost cancel, such as those of a bias before a norm, are mostly rounding.
SMALLEST = 1e-3


def main(path: str) -> None:
    torch.set_num_threads(1)
    ranks = distributed.start("cpu")
    share = slice(ranks.rank * 2, ranks.rank * 2 + 2)
    found = {}
    for case in CASES:
        detector = build(case)
        model = wrap(detector, ranks)
        for kind in (kind for other, kind in COMBINATIONS if other == case):
            images, targets = joint_batch(kind)
            mine = gradients(model, detector, images[share], targets[share])
            if not ranks.is_main:
                continue
            with mock.patch("torch.distributed.is_initialized", return_value=False):
                whole = gradients(detector, detector, images, targets)
            largest = {key: value.abs().max().item() for key, value in whole.items()}
            floor = max(SMALLEST * max(largest.values()), sys.float_info.min)
            found[f"{case}/{kind}"] = {
                key: (mine[key] - value).abs().max().item() / max(largest[key], floor)
                for key, value in whole.items()
            }
    if ranks.is_main:
        Path(path).write_text(json.dumps(found))
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
