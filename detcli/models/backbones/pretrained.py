"""Public ImageNet weights for a backbone, or a file of the same layout."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.models.convert.files import read_state
from detcli.models.convert.names import resnet_key
from detcli.models.convert.report import copy_state, keep_eps

IMAGENET = "imagenet"
IMAGENET_EPS = 1e-5  # of the norms, in torchvision's and the caffe-style weights alike


def load_backbone_weights(backbone: nn.Module, weights: str, *, depth: int) -> None:
    """Copy ImageNet weights into a ResNet of this depth.

    weights: "imagenet" downloads torchvision's IMAGENET1K_V1 (or finds it in the download
    folder); anything else is the path of a file with torchvision's names, such as
    MMDetection's caffe-style ones. Raises CheckpointError.
    """
    if weights == IMAGENET:
        state, where = download_imagenet(depth), f"torchvision's ResNet-{depth}"
    else:
        state, where = read_state(Path(weights)), weights
    renamed = {resnet_key(key): value for key, value in state.items() if not key.startswith("fc.")}
    for key, value in backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):  # old files lack it; nothing depends on it
            renamed.setdefault(key, value)
    keep_eps(renamed, backbone, IMAGENET_EPS, where)
    copy_state(backbone, renamed, where)


def download_imagenet(depth: int) -> dict[str, Tensor]:
    """torchvision's ImageNet weights for this depth; CheckpointError when they cannot be had."""
    from torchvision.models import get_model_weights

    url = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {url} ({error}): put that file at {file}, or set "
            "model.backbone.weights to its path, or to null for random weights"
        ) from error
    return state
