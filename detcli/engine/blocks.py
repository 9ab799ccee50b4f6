"""Say which blocks a recipe switches on, before the first step."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from detcli.recipe import Recipe


def announce_blocks(recipe: Recipe, detector: nn.Module, say: Callable[[str], None]) -> None:
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


def _announce_convolutions(recipe: Recipe, detector: nn.Module, say: Callable[[str], None]) -> None:
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
    if getattr(neck, "upsample", None) == "carafe":
        say(f"neck: {_count(detector, '.encode.weight')} maps enlarged by CARAFE")
    if getattr(head, "implicit", False):
        count = _count(detector, ".multiply")
        say(f"implicit knowledge: around {count} predictions, never decayed")


def _count(detector: nn.Module, ending: str) -> int:
    return sum(name.endswith(ending) for name, _ in detector.named_parameters())


def _added(detector: nn.Module, name: str) -> str:
    parts = [part for path, part in detector.named_modules() if path.endswith(f".{name}")]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    return f"{len(parts)} of them; their {count} parameters start fresh"


def _where(stages: tuple[int, ...]) -> str:
    return f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"
