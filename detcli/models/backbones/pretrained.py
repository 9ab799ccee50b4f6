"""Public ImageNet weights for a backbone, or a file of the same layout."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError
from detcli.weights.files import read_state
from detcli.weights.names import resnet_key, vgg_key
from detcli.weights.report import copy_state, keep_eps

IMAGENET = "imagenet"
IMAGENET_EPS = 1e-5  # of the norms, in torchvision's and the caffe-style weights alike
ADDED_PARTS = (".attention.", ".conv_offset.")


def load_backbone_weights(backbone: nn.Module, weights: str, *, depth: int) -> None:
    """Copy ImageNet weights into a ResNet of this depth.

    weights: "imagenet" downloads torchvision's IMAGENET1K_V1 (or finds it in the download
    folder); anything else is the path of a file with torchvision's names, such as
    MMDetection's caffe-style ones. What `starts_fresh` keeps its values where the file does not
    have it. Raises CheckpointError.
    """
    if weights == IMAGENET:
        state, where = download(f"resnet{depth}", "IMAGENET1K_V1"), f"torchvision's ResNet-{depth}"
    else:
        state, where = read_state(Path(weights)), weights
    renamed = {resnet_key(key): value for key, value in state.items() if not key.startswith("fc.")}
    if "stages.3.0.conv1.conv.weight" not in backbone.state_dict():  # it ends with C4
        renamed = {key: value for key, value in renamed.items() if not key.startswith("stages.3.")}
    for key, value in backbone.state_dict().items():
        # old files lack the counter, on which nothing depends
        if key.endswith("num_batches_tracked") or starts_fresh(key):
            renamed.setdefault(key, value)
    keep_eps(renamed, backbone, IMAGENET_EPS, where)
    copy_state(backbone, renamed, where)


def load_vgg_weights(backbone: nn.Module, weights: str) -> None:
    """Copy ImageNet weights into a VGG-16 of SSD.

    weights: "imagenet" downloads torchvision's IMAGENET1K_FEATURES (or finds it in the download
    folder), the authors' weights for images of 0 to 255 less their mean; anything else is the
    path of a file with torchvision's names, such as MMDetection's vgg16_caffe. fc6 and fc7 are
    copied where the file has them as convolutions and keep their values where it has not.
    Raises CheckpointError.
    """
    if weights == IMAGENET:
        state, where = download("vgg16", "IMAGENET1K_FEATURES"), "torchvision's VGG-16"
    else:
        state, where = read_state(Path(weights)), weights
    renamed = {
        vgg_key(key): value for key, value in state.items() if not key.startswith("classifier.")
    }
    for key, value in backbone.state_dict().items():
        if key.startswith("fc"):
            renamed.setdefault(key, value)
    copy_state(backbone, renamed, where)


def starts_fresh(key: str) -> bool:
    """Whether this tensor belongs to a part that public ImageNet weights do not have: attention,
    or the offsets of a deformable convolution."""
    return any(part in key for part in ADDED_PARTS)


def download(model: str, weights: str) -> dict[str, Tensor]:
    """torchvision's weights of this name for a model; CheckpointError when they cannot be had."""
    from torchvision.models import get_model_weights

    url = get_model_weights(model)[weights].url
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
