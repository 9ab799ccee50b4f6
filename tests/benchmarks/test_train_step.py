"""One training step of RetinaNet-R50 against torchvision's, on the CPU: time and peak memory.

Both train the same layers (stem and first stage frozen, norms on running statistics) on the same
batch: 4 images of 320 x 320, two threads, SGD with momentum. A step is forward, losses, backward
and update. Run as `python -m tests.benchmarks.test_train_step NAME` it prints one's peak memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from tests.benchmarks.memory import peak_mib
from tests.models.specs import RETINANET_MM, detector, target
from tests.paths import ROOT

SIDE, BATCH, ROUNDS, THREADS = 320, 4, 7, 2
BOXES = [[10.0, 20, 100, 150], [50, 60, 200, 300], [5, 5, 30, 40]]
LABELS = [1, 2, 3]


def images() -> Tensor:
    return torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4)


def frozen_norm_peer() -> nn.Module:
    """torchvision's RetinaNet as with ImageNet weights, which a test cannot download."""
    trunk = _resnet_fpn_extractor(
        resnet50(weights=None, norm_layer=FrozenBatchNorm2d),
        3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(trunk, 80, min_size=SIDE, max_size=SIDE)


def default_peer() -> nn.Module:
    """As its function makes it without weights: every layer learns, norms on batch statistics."""
    return retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=80, min_size=SIDE, max_size=SIDE
    )


def peer_step(model: nn.Module) -> Callable[[], None]:
    model.train()
    optimizer, batch = sgd(model), list(images())
    targets = [{"boxes": torch.tensor(BOXES), "labels": torch.tensor(LABELS)}] * BATCH

    def step() -> None:
        loss = sum(model(batch, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def own_step() -> Callable[[], None]:
    model = detector("retinanet", RETINANET_MM).train()
    optimizer, batch = sgd(model), images()
    targets = [target(BOXES, LABELS, (SIDE, SIDE))] * BATCH

    def step() -> None:
        loss = sum(model.loss(model(batch), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


STEPS: dict[str, Callable[[], Callable[[], None]]] = {
    "detcli": own_step,
    "torchvision": lambda: peer_step(frozen_norm_peer()),
    "torchvision, all layers": lambda: peer_step(default_peer()),
}


@pytest.mark.bench
def test_step_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    steps = {name: make() for name, make in STEPS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        order = list(steps) if number % 2 else list(reversed(steps))
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    torch.set_num_threads(before)
    own = median(seconds["detcli"])
    for name, values in seconds.items():
        print(
            f"\n{name}: {median(values):.2f} s a step, {median(values) / own:.2f} of ours", end=""
        )
    assert median(seconds["torchvision"]) / own >= 1.2


@pytest.mark.bench
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory() -> None:
    """Peak memory beyond that of a process that has only imported everything.

    What is in use repeats to 2 MB. What the process holds also has the holes that the C library
    keeps, which differ by 100 MB between runs of either program: printed, but no test.
    """
    for kind, settings in (("held", {}), ("in use", {"MALLOC_MMAP_THRESHOLD_": "1000000"})):
        names = ("nothing", "detcli", "torchvision")
        peak = {name: peak_megabytes(name, settings) for name in names}
        own, peer = (peak[name] - peak["nothing"] for name in ("detcli", "torchvision"))
        ratio = own / peer
        print(f"\npeak memory {kind}: {own:.0f} MB, torchvision {peer:.0f} MB, {ratio:.2f} of it")
    assert ratio <= 1  # of what is in use: every large block goes back at once


def peak_megabytes(name: str, settings: dict[str, str]) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.test_train_step", name]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main(name: str) -> None:
    torch.set_num_threads(THREADS)
    if name in STEPS:
        step = STEPS[name]()
        for _ in range(4):
            step()
    print(peak_mib())


if __name__ == "__main__":
    main(sys.argv[1])
