"""From targets to what every prior of a batch should learn.

Letters: B images, P priors of one image, G objects of the batch, M positive priors of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from detcli.assign import IGNORED, NEGATIVE, Assigner, ignore_inside
from detcli.ops.boxes import box_area
from detcli.ops.priors import Priors, priors_inside
from detcli.phases import phase
from detcli.types import Target

# What images are padded to before they are padded to the largest of their batch. References count
# that first padding as part of the image.
PAD_MULTIPLE = 32

Padding: TypeAlias = Literal["seen", "ignored", "background"]


class Matches(NamedTuple):
    """The objects that the priors of a batch are responsible for.

    labels (B, P) int64: class, num_classes for background, IGNORED for priors without a say;
    positive (M,) int64: rows of the positives in the (B * P) flattened predictions, in order;
    objects (M,) int64: their objects, as rows among those of the batch, image after image;
    boxes (M, 4) xyxy: of these objects; image_share (M,): area of these boxes as a share of their
    image's; positives_per_image (B,) int64.
    """

    labels: Tensor
    positive: Tensor
    objects: Tensor
    boxes: Tensor
    image_share: Tensor
    positives_per_image: Tensor

    def prior_index(self) -> Tensor:
        """(M,) int64 which prior each positive is."""
        return self.positive % self.labels.shape[1]


def match_batch(
    assigner: Assigner,
    priors: Priors,
    targets: Sequence[Target],
    *,
    num_classes: int,
    padding: Padding,
) -> Matches:
    """`assign_batch`, then `collect_matches`."""
    matched = assign_batch(assigner, priors, targets, padding=padding)
    return collect_matches(matched, targets, num_classes=num_classes)


def assign_batch(
    assigner: Assigner, priors: Priors, targets: Sequence[Target], *, padding: Padding
) -> Tensor:
    """(B, P) int64: the object of its image that each prior learns, NEGATIVE or IGNORED.

    padding: what becomes of priors whose cell begins outside the image's own `size`, rounded up
    to 32. "seen": the assigner treats them as all others; otherwise it is not shown them, and they
    are "ignored" or "background".
    """

    @functools.cache
    def shown(size: tuple[int, int]) -> tuple[Priors, Tensor]:
        """The priors in an image of this size, and (P,) bool which ones they are."""
        inside = cells_inside(priors, size)
        return priors.select(inside), inside

    def match_image(target: Target) -> Tensor:
        """(P,) int64: index of the object, NEGATIVE or IGNORED."""
        if padding == "seen":
            matched = assigner(priors, target.boxes)
        else:
            seen, inside = shown(target.size)
            outside = IGNORED if padding == "ignored" else NEGATIVE
            matched = target.labels.new_full((len(priors),), outside)
            matched[inside] = assigner(seen, target.boxes)
        return ignore_inside(matched, priors.centers, target.ignore_boxes)

    with phase("assignment"):
        return torch.stack([match_image(target) for target in targets])


def cells_inside(priors: Priors, size: tuple[int, int]) -> Tensor:
    """(P,) bool: the prior's cell begins in an image of this (height, width), rounded up to 32."""
    height, width = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in size)
    return priors_inside(priors, (height, width))


def objects_of(matched: Tensor, positive: Tensor, targets: Sequence[Target]) -> Tensor:
    """(M,) int64 rows among all objects of the batch, image after image, for the rows `positive`
    (M,) of the flattened `matched` (B, P)."""
    counts = [len(target.labels) for target in targets]
    first = torch.tensor([0, *counts[:-1]]).cumsum(0).to(matched.device)
    return (matched + first[:, None]).flatten()[positive]


def collect_matches(matched: Tensor, targets: Sequence[Target], *, num_classes: int) -> Matches:
    """What the priors of `matched` (B, P), as `assign_batch` gives it, should learn."""
    is_positive = matched >= 0
    positive = is_positive.flatten().nonzero().squeeze(1)
    objects = objects_of(matched, positive, targets)
    labels = matched.where(matched == IGNORED, num_classes)
    labels.view(-1)[positive] = torch.cat([target.labels for target in targets])[objects]
    boxes = torch.cat([target.boxes for target in targets])[objects]
    image_areas = boxes.new_tensor(
        [height * width for height, width in (target.size for target in targets)]
    )
    share = box_area(boxes) / image_areas[positive // labels.shape[1]]
    return Matches(labels, positive, objects, boxes, share, is_positive.sum(dim=1))


def of_every_row(targets: Sequence[Target], maps: Sequence[Tensor]) -> list[Target]:
    """The targets once for every time that the images come along the batch of `maps`
    (B, *, h, w): a neck with deep supervision gives several pyramids of them."""
    return [*targets] * (maps[0].shape[0] // len(targets))


def positives_of_batch(matches: Matches) -> Tensor:
    """The positives of all images: a float scalar, the normaliser of FCOS."""
    return matches.positives_per_image.sum().float()


def positives_of_each_image(matches: Matches) -> Tensor:
    """Sum over the images of max(1, positives): a float scalar, the normaliser of RetinaNet."""
    return matches.positives_per_image.clamp(min=1).sum().float()
