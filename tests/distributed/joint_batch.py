"""The batch and the detectors that the distributed tests share."""

import torch

from detcli.engine.setup import build_model
from detcli.layers.norm import use_running_statistics
from detcli.recipe import recipe_from_dict
from detcli.types import Target
from tests.models.specs import SMALL_CENTERNET, SMALL_TWO_STAGE, SMALL_YOLOV4, TWO_STAGE
from tests.recipes import TINY, merged

DETECTORS = {
    "atss": {"assigner": {"name": "atss"}},
    "fcos": {"assigner": {"name": "fcos"}},
    "retinanet": {"assigner": {"name": "max_iou"}},
    "two heads": {"name": "atss", "auxiliary": {}, "iou_branch": {}},
    **dict.fromkeys(("faster_rcnn", "cascade_rcnn"), SMALL_TWO_STAGE),  # samples nothing
    "centernet": SMALL_CENTERNET,
    "yolov4": SMALL_YOLOV4,
    "yolov4 scaled": {"name": "yolov4", "loss": {"name": "scaled"}, **SMALL_YOLOV4},
}
# Those whose sections have not the keys of the tiny recipe's detector.
FOREIGN = (*TWO_STAGE, "centernet", "yolov4", "yolov4 scaled")


def build(name):
    """A small detector whose batch norms use running statistics: these do not depend on how a
    batch is split over ranks."""
    plain = {} if name in FOREIGN else TINY["model"]
    recipe = TINY | {"model": merged(plain, {"name": name} | DETECTORS[name])}
    recipe["model"]["backbone"] = recipe["model"]["backbone"] | {"weights": None}
    torch.manual_seed(0)
    model = build_model(recipe_from_dict(recipe, "test"), 3).train()
    use_running_statistics(model)
    return model


def joint_batch(kind):
    """Four images of 64 x 64: images 0, 1 belong to rank 0, images 2, 3 to rank 1."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    counts = {"full": (3, 1, 2, 5), "empty rank": (3, 1, 0, 0), "empty": (0, 0, 0, 0)}[kind]
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat(
            [corners, corners + 8 + 20 * torch.rand(count, 2, generator=generator)], 1
        )
        labels = torch.randint(0, 3, (count,), generator=generator)
        targets.append(Target(boxes, labels, torch.zeros(0, 4), (64, 64)))
    return images, targets


def total_loss(detector, outputs, targets):
    return torch.stack(list(detector.loss(outputs, targets).values())).sum()
