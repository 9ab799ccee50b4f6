"""The loss of a dense detector: its lead head, and where there is one its auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from detcli.models.dense.auxiliary import Auxiliary, Lead
from detcli.models.dense.matching import Matches, Padding, assign_batch, collect_matches
from detcli.models.dense.terms import Criterion
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors
from detcli.types import Target


class DenseOutputs(Protocol):
    """Of each level: logits (B, A * C, h, w) and boxes (B, A * 4, h, w)."""

    @property
    def class_logits(self) -> tuple[Tensor, ...]: ...
    @property
    def boxes(self) -> tuple[Tensor, ...]: ...


Outputs = TypeVar("Outputs", bound=DenseOutputs)
Raw_contra = TypeVar("Raw_contra", bound=DenseOutputs, contravariant=True)


class DenseHead(Protocol):
    """num_classes: without background."""

    num_classes: int


class DenseDetector(Protocol[Raw_contra]):
    """What `dense_loss` needs of a detector."""

    coder: BoxCoder
    criterion: Criterion
    auxiliary: Auxiliary | None

    @property
    def head(self) -> DenseHead: ...

    def head_loss(
        self, outputs: Raw_contra, priors: Priors, matches: Matches, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The weighted terms of one head."""
        ...


def of_every_row(targets: Sequence[Target], maps: Sequence[Tensor]) -> list[Target]:
    """The targets once for every time that the images come along the batch of `maps`
    (B, *, h, w): a neck with deep supervision gives several pyramids of them."""
    return [*targets] * (maps[0].shape[0] // len(targets))


def dense_loss(
    detector: DenseDetector[Outputs],
    outputs: Outputs,
    auxiliary: Sequence[Outputs],
    targets: Sequence[Target],
    *,
    priors: Priors,
    padding: Padding,
) -> dict[str, Tensor]:
    """Terms of the lead head, and with `auxiliary` outputs those of the auxiliary head, whose
    names begin with "aux_"; float32 scalars with their weights, also under autocast.

    padding: see `assign_batch`.
    """
    assigner, num_classes = detector.criterion.assigner, detector.head.num_classes
    targets = of_every_row(targets, outputs.boxes)
    with torch.autocast(outputs.boxes[0].device.type, enabled=False):
        matched = assign_batch(assigner, priors, targets, padding=padding)
        matches = collect_matches(matched, targets, num_classes=num_classes)
        losses = detector.head_loss(outputs, priors, matches, targets)
        if detector.auxiliary is None or not auxiliary:
            return losses
        lead = Lead(outputs.class_logits, outputs.boxes, num_classes, detector.coder)
        coarse = detector.auxiliary.assign(
            assigner, priors, targets, fine=matched, lead=lead, padding=padding
        )
        matches = collect_matches(coarse, targets, num_classes=num_classes)
        return losses | detector.auxiliary.weighted(
            detector.head_loss(auxiliary[0], priors, matches, targets)
        )
