"""Sections of a recipe from plain values, for the builders under test."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import TypeAdapter

from detcli.assign import Assigner, build_assigner
from detcli.losses import BoxLoss, ClassLoss, SoftmaxLoss, build_box_loss, build_class_loss
from detcli.recipe.sections import priors
from detcli.recipe.sections.losses import AnyClassLoss, AnySoftmaxLoss, Ohem, SideLoss


def section(kind: Any, **values: Any) -> Any:
    """A section of a class, or of that one of a choice which the `name` in the values says."""
    return TypeAdapter(kind).validate_python(values)


def names_of(choice: Any) -> list[str]:
    """The names that a choice of sections has."""
    return [
        get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(choice)[0])
    ]


CLASS_LOSSES = names_of(AnyClassLoss)
SOFTMAX_LOSSES = names_of(AnySoftmaxLoss)
ASSIGNERS = names_of(priors.Assigner)
MINING = get_args(Ohem.model_fields["name"].annotation)


def assigner_of(name: str, **values: Any) -> Assigner:
    return build_assigner(section(priors.Assigner, name=name, **values))


def class_loss_of(name: str, **values: Any) -> ClassLoss | SoftmaxLoss:
    choice = AnySoftmaxLoss if name in SOFTMAX_LOSSES else AnyClassLoss
    return build_class_loss(section(choice, name=name, **values))


def box_loss_of(name: str, **values: Any) -> BoxLoss:
    """With every option set, whether the loss has it or not."""
    return build_box_loss(SideLoss.model_construct(name=name, **values))
