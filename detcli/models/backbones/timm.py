"""Any network of the timm library that makes maps at strides 4, 8, 16 and 32.

Letters: B images, C channels of a map; H and W sides of the image.
"""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcli.errors import CheckpointError, UsageError
from detcli.layers.norm import use_running_statistics
from detcli.text import did_you_mean

STRIDES = (4, 8, 16, 32)
PROBE = (64, 96)  # sides of the blank image that shows how a network behaves
IMAGENET = "imagenet"
HUB = "https://huggingface.co"
_WHERE = "model.backbone"


class TimmBackbone(nn.Module):
    """The four maps of a network of timm at strides 4, 8, 16 and 32.

    network: its form that gives these maps; channels: of each; mean and std: of the images that its
    weights are for, of 0 to 255 and RGB, None without weights. norm_eval: batch norms use their
    running statistics in training too. frozen_stages: 0 = nothing is frozen, 1 = all that the map
    at stride 4 depends on, ... 4 = everything.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        channels: Sequence[int],
        norm_eval: bool,
        frozen_stages: int,
        mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.out_channels = tuple(channels)
        self.norm_eval = norm_eval
        self.mean_std = mean_std
        self.frozen: frozenset[str] = frozenset()
        self.reached = self._reached(name)
        self.frozen = frozenset().union(*self.reached[:frozen_stages])
        self.train_for(STRIDES[0])
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Four maps (B, C, H / 4 / 2^i, W / 4 / 2^i) of images (B, 3, H, W)."""
        maps = self.network(images)
        return tuple(
            x if x.shape[1] == width else x.permute(0, 3, 1, 2)  # some keep channels last
            for x, width in zip(maps, self.out_channels, strict=True)
        )

    def train(self, mode: bool = True) -> TimmBackbone:
        """As nn.Module.train, but frozen parts and, with norm_eval, all batch norms stay fixed."""
        super().train(mode)
        if self.norm_eval:
            use_running_statistics(self)
        for key, module in self.network.named_modules():
            own = [f"{key}.{name}" for name, _ in module.named_parameters(recurse=False)]
            if own and self.frozen.issuperset(own):
                module.eval()
        return self

    def train_for(self, stride: int) -> None:
        """Freeze also what no map at this stride or a coarser one depends on: it cannot learn."""
        used = frozenset().union(*self.reached[STRIDES.index(stride) :])
        for key, parameter in self.network.named_parameters():
            parameter.requires_grad_(key in used and key not in self.frozen)

    def _reached(self, name: str) -> list[frozenset[str]]:
        """The parameters that each map depends on. Raises UsageError when an image of other sides
        than those the network was made for cannot be read, or makes maps of other strides."""
        self.eval()
        parameters = dict(self.network.named_parameters())
        height, width = PROBE
        first = next(iter(parameters.values()))
        try:
            with torch.enable_grad():
                maps = self(torch.zeros(1, 3, height, width, device=first.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"{_WHERE}.model: timm's {name} cannot read an image of {height} x {width} "
                f"({str(error).splitlines()[0]}); use a network for images of any size"
            ) from None
        for x, channels, stride in zip(maps, self.out_channels, STRIDES, strict=True):
            wanted = (channels, height // stride, width // stride)
            if tuple(x.shape[1:]) != wanted:
                raise UsageError(
                    f"{_WHERE}.model: timm's {name} should make {wanted} of {height} x {width} at "
                    f"stride {stride}, but makes {tuple(x.shape[1:])}; use another network"
                )
        reached = []
        for x in maps:
            grads = torch.autograd.grad(
                x.sum(), list(parameters.values()), allow_unused=True, retain_graph=True
            )
            pairs = zip(parameters, grads, strict=True)
            reached.append(frozenset(key for key, grad in pairs if grad is not None))
        return reached


def build_timm(
    *, model: str, norm_eval: bool, frozen_stages: int, weights: str | None
) -> TimmBackbone:
    """timm's network of this name with its published weights ("imagenet"), those of a file with
    timm's names, or random ones.

    Raises UsageError where timm is not installed, has no such network, or this one does not make
    maps at strides 4 to 32; CheckpointError where the weights cannot be had or do not fit.
    """
    timm = _library(downloads=weights == IMAGENET)
    _check_name(timm, model)
    indices = _indices(timm, model)
    keywords: dict[str, Any] = {"features_only": True, "out_indices": indices}
    network = _network(timm, model, weights, keywords)
    info: Any = network.feature_info
    config = timm.get_pretrained_cfg(model)
    mean_std = None
    if weights is not None and config is not None:
        mean_std = (
            tuple(255 * value for value in config.mean),
            tuple(255 * value for value in config.std),
        )
    return TimmBackbone(
        network,
        name=model,
        channels=info.channels(),
        norm_eval=norm_eval,
        frozen_stages=frozen_stages,
        mean_std=mean_std,
    )


def _library(*, downloads: bool) -> Any:
    """timm; where it shall download but the hub's name cannot be resolved, it looks among earlier
    downloads only, instead of trying again for a minute."""
    elsewhere = urllib.request.getproxies() or "HF_ENDPOINT" in os.environ
    if downloads and not elsewhere and not _resolves(HUB.removeprefix("https://")):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when timm is imported
    try:
        import timm
    except ImportError:
        raise UsageError(
            f"{_WHERE}: the library timm is not installed; pip install 'detcli[timm]', or take "
            "backbone resnet"
        ) from None
    return timm


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def _check_name(timm: Any, model: str) -> None:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UsageError(f"{_WHERE}.model: timm has no network {architecture!r}{hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(
            f"{_WHERE}.model: timm's {architecture} has no weights tagged {tag!r}; it has "
            f"{', '.join(tags) or 'none'}"
        )


def _indices(timm: Any, model: str) -> tuple[int, ...]:
    """Which of the network's maps have the strides 4 to 32, the deepest of each."""
    try:
        network: Any = _create(timm, model, features_only=True)
    except (RuntimeError, TypeError, AttributeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{_WHERE}.model: timm's {model} gives no feature maps ({str(error).splitlines()[0]}); "
            "take another network"
        ) from None
    found = list(network.feature_info.reduction())
    if not set(STRIDES) <= set(found):
        shown = ", ".join(map(str, dict.fromkeys(found)))
        raise UsageError(
            f"{_WHERE}.model: a pyramid needs feature maps at strides 4, 8, 16 and 32, but timm's "
            f"{model} has strides {shown}; use another network"
        )
    return tuple(len(found) - 1 - found[::-1].index(stride) for stride in STRIDES)


def _network(timm: Any, model: str, weights: str | None, keywords: dict[str, Any]) -> nn.Module:
    """The network with its weights; CheckpointError when they cannot be had or do not fit."""
    if weights is None:
        network: nn.Module = timm.create_model(model, **keywords)
        return network
    if weights != IMAGENET:
        if not Path(weights).is_file():
            raise CheckpointError(f"{weights}: no such file ({_WHERE}.weights)")
        keywords = {**keywords, "pretrained_cfg_overlay": {"file": weights}}
    try:
        network = _create(timm, model, pretrained=True, **keywords)
    except Exception as error:  # the network's, the hub's and the reader's own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if weights != IMAGENET:
            raise CheckpointError(f"{weights}: not weights of timm's {model} ({reason})") from error
        config = timm.get_pretrained_cfg(model)
        place = config.hf_hub_id if config is not None else None
        file = f"put model.safetensors of {HUB}/{place} somewhere and " if place else ""
        raise CheckpointError(
            f"cannot get timm's weights of {model} ({reason}): {file}set {_WHERE}.weights to the "
            "path of a file, or to null for random weights"
        ) from error
    # timm passes over what a file lacks: what is as it was drawn has not been read
    fresh = dict(_create(timm, model, **keywords).named_parameters())
    left = [
        key
        for key, value in network.named_parameters()
        if value.dim() > 1 and torch.equal(value, fresh[key])
    ]
    if left:
        raise CheckpointError(
            f"{weights}: not weights of timm's {model}: has no {left[0]}, nor {len(left) - 1} more"
        )
    return network


def _create(timm: Any, model: str, **keywords: Any) -> nn.Module:
    """The network, its random weights always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = timm.create_model(model, **keywords)
        return network
