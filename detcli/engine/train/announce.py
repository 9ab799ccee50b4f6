"""Say which blocks a recipe switches on, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detcli.models.backbones.timm import TimmBackbone
from detcli.models.detector import Detector
from detcli.recipe import Recipe

SAME_SHADE = 0.5  # of 255: smaller differences of mean and std are rounding


def announce_blocks(recipe: Recipe, detector: Detector, say: Callable[[str], None]) -> None:
    """One line for each block that is on: where it is, and what of it starts fresh."""
    backbone, head = recipe.model.backbone, getattr(recipe.model, "head", None)
    attention = getattr(backbone, "attention", None)
    if attention is not None:
        added = _added(detector, "attention")
        say(f"attention {attention.name}: {_where(attention.stages)}, {added}")
    dcn = getattr(backbone, "dcn", None)
    if dcn is not None:
        added = _added(detector, "conv_offset")
        say(f"deformable convolutions v{dcn.version}: {_where(dcn.stages)}, {added}")
    dilation = getattr(backbone, "dilation", None)
    if dilation is not None:
        rates = ", ".join(map(str, dilation.rates))
        say(f"dilation: {_where(dilation.stages)}, {rates} in turn; strides stay as they are")
    dropout = getattr(head, "dropout", None)
    if dropout is not None:
        how = f"beta {dropout.beta}" if dropout.name == "uniform" else f"rate {dropout.rate}"
        say(f"dropout {dropout.name}, {how}: on the features before each prediction, in training")
    norm = getattr(head, "norm", None)
    if norm in {"bn", "sync_bn"}:
        say(f"model.head.norm {norm}: all levels share one set of running statistics")
    context = getattr(getattr(recipe.model, "pooler", None), "context", None)
    if context is not None:
        say(
            f"pooler: beside each region one of {context:g} times its sides, twice as many features"
        )
    _announce_convolutions(recipe, detector, say)
    _announce_network(recipe, detector, say)


def _announce_network(recipe: Recipe, detector: Detector, say: Callable[[str], None]) -> None:
    """What else than a plain ResNet and FPN it is."""
    if getattr(recipe.model.backbone, "units", "post") == "pre":
        say("backbone: pre-activation, norm and ReLU before each convolution")
    trunk = getattr(detector, "backbone", None)
    if isinstance(trunk, TimmBackbone):
        widths = ", ".join(map(str, trunk.out_channels))
        say(f"backbone: timm's {trunk.name}, maps of {widths} channels at strides 4 to 32")
        _announce_normalisation(recipe, trunk, say)
    neck: Any = getattr(recipe.model, "neck", None)
    name = getattr(neck, "name", None)
    if name == "pan":
        say(f"neck pan: {_parts(detector, 'neck.downsample')} steps back up")
    if name == "bifpn":
        say(f"neck bifpn: {neck.num_levels} levels fused {neck.repeats} times, norm {neck.norm}")
    if name == "unet_pp":
        columns = _parts(detector, "neck.columns")
        say(f"neck unet_pp: {columns} columns of nested nodes, norm {neck.norm}")
        if getattr(neck, "deep_supervision", False):
            say(f"deep supervision: in training the losses are means over {columns} pyramids")
    aspp = getattr(neck, "aspp", None)
    if aspp is not None:
        rates = ", ".join(map(str, aspp.rates))
        say(f"neck: ASPP of the backbone's last map, dilations {rates}, norm {aspp.norm}")


def _announce_normalisation(
    recipe: Recipe, trunk: TimmBackbone, say: Callable[[str], None]
) -> None:
    """Say where the images are not normed as those that the public weights were made with."""
    if trunk.mean_std is None:
        return
    order = slice(None, None, -1 if recipe.data.channels == "bgr" else 1)
    for key, theirs in zip(("mean", "std"), trunk.mean_std, strict=True):
        mine = getattr(recipe.data, key)[order]
        if any(abs(a - b) > SAME_SHADE for a, b in zip(mine, theirs, strict=True)):
            wanted = ", ".join(f"{value:.5g}" for value in theirs[order])
            say(
                f"data.{key} is {list(getattr(recipe.data, key))}, but the weights of timm's "
                f"{trunk.name} were made with [{wanted}]; set data.{key} to these"
            )


def _announce_convolutions(recipe: Recipe, detector: Detector, say: Callable[[str], None]) -> None:
    neck, head = getattr(recipe.model, "neck", None), getattr(recipe.model, "head", None)
    for part, section in (("neck outputs", neck), ("head", head)):
        kind = getattr(section, "conv", "plain")
        if kind != "plain":
            say(f"{part}: {kind} convolutions")
    if getattr(head, "conv", None) == "rep":
        say(
            "model.head.conv rep: all levels share one set of running statistics, with which "
            "evaluation can be far worse than training; model.neck.conv rep has one for each level"
        )
    if getattr(neck, "upsample", None) == "duc":
        say(f"neck: {_parts(detector, 'neck.upsample')} maps enlarged by DUC")
    if getattr(neck, "upsample", None) == "carafe":
        say(f"neck: {_count(detector, '.encode.weight')} maps enlarged by CARAFE")
    if getattr(head, "implicit", False):
        count = _count(detector, ".multiply")
        say(f"implicit knowledge: around {count} predictions, never decayed")


def _count(detector: Detector, ending: str) -> int:
    return sum(name.endswith(ending) for name, _ in detector.named_parameters())


def _parts(detector: Detector, name: str) -> int:
    return len(list(detector.get_submodule(name).children()))


def _added(detector: Detector, name: str) -> str:
    parts = [part for path, part in detector.named_modules() if path.endswith(f".{name}")]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    return f"{len(parts)} of them; their {count} parameters start fresh"


def _where(stages: tuple[int, ...]) -> str:
    return f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"
