"""Training steps of one detector in a process of its own, one for each line on the input.

    python -m tests.benchmarks.step_process OWNER DETECTOR SIDE BATCH

OWNER: detcli; torchvision, with frozen norms, stem and first stage as in fine-tuning; or
torchvision-all, as its function builds it without weights: every layer learns. A step is forward,
losses, backward and SGD with momentum on `BATCH` images of `SIDE` x `SIDE`, in one thread. Each
takes it as its own training loop does: ours drops the gradients when they are used, that of
torchvision's references after the next forward pass. Prints for each step its processor seconds and
the MiB that the process has held at most.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detcli.cpu.memory import map_large_blocks
from tests.benchmarks.memory import peak_mib
from tests.models.specs import FCOS_TORCHVISION, RETINANET_TORCHVISION, detector, target

OWN = {"retinanet": RETINANET_TORCHVISION, "fcos": FCOS_TORCHVISION}
FROZEN: dict[str, Callable[..., nn.Module]] = {"retinanet": RetinaNet, "fcos": FCOS}
ALL_LAYERS = {"retinanet": retinanet_resnet50_fpn, "fcos": fcos_resnet50_fpn}
BOXES = [[10.0, 20, 100, 150], [50, 60, 200, 300], [5, 5, 30, 40]]
LABELS = [1, 2, 3]
NUM_CLASSES = 80


def build_peer(owner: str, name: str, side: int) -> nn.Module:
    """torchvision's detector; with frozen norms as it is with ImageNet weights, which a test
    cannot download."""
    if owner == "torchvision-all":
        return ALL_LAYERS[name](
            weights=None,
            weights_backbone=None,
            num_classes=NUM_CLASSES,
            min_size=side,
            max_size=side,
        )
    trunk = _resnet_fpn_extractor(
        resnet50(weights=None, norm_layer=FrozenBatchNorm2d),
        3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return FROZEN[name](trunk, NUM_CLASSES, min_size=side, max_size=side)


def build_losses(
    owner: str, name: str, images: Tensor
) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """A detector in training, and its losses for the images."""
    side = images.shape[-1]
    if owner == "detcli":
        model = detector(name, OWN[name], num_classes=NUM_CLASSES).train()
        own = [target(BOXES, LABELS, (side, side))] * len(images)
        return model, lambda: model.loss(model(images), own)
    model = build_peer(owner, name, side).train()
    theirs = [{"boxes": torch.tensor(BOXES), "labels": torch.tensor(LABELS)}] * len(images)
    return model, lambda: model(list(images), theirs)


def main(owner: str, name: str, side: int, batch: int) -> None:
    torch.set_num_threads(1)
    if owner == "detcli":
        map_large_blocks()
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    if owner != "nothing":
        model, losses = build_losses(owner, name, images)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(
            learning, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=owner == "detcli"
        )
    for _ in sys.stdin:
        start = time.process_time()
        if owner != "nothing":
            loss = torch.stack(list(losses().values())).sum()
            if owner != "detcli":
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if owner == "detcli":
                optimizer.zero_grad()
        print(json.dumps({"seconds": time.process_time() - start, "mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
