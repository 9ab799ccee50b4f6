"""Run in two processes: the gradients of this rank's half of a batch, averaged over the ranks.

Arguments: detector name, output file. Rank 1's images have no objects when ends in "empty".
"""

import sys

import torch

from detcli.engine import distributed
from detcli.engine.prepare import wrap
from tests.distributed.joint_batch import build, joint_batch, total_loss


def main(name: str, kind: str, path: str) -> None:
    torch.set_num_threads(1)
    ranks = distributed.start("cpu")
    images, targets = joint_batch(kind)
    share = slice(ranks.rank * 2, ranks.rank * 2 + 2)
    detector = build(name)
    model = wrap(detector, ranks)
    outputs = model(images[share], targets[share])
    total_loss(detector, outputs, targets[share]).backward()
    if ranks.is_main:
        torch.save({key: value.grad for key, value in detector.named_parameters()}, path)
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
