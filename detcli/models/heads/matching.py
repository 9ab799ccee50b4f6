"""From targets to what every prior of a batch should learn.

Letters: B images, P priors of one image, G objects of the batch, M positive priors of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detcli.assign import IGNORED, Assigner, ignore_inside
from detcli.ops.boxes import box_area
from detcli.ops.priors import Priors, priors_inside
from detcli.types import Target

# What images are padded to before they are padded to the largest of their batch. References count
# that first padding as part of the image.
PAD_MULTIPLE = 32


class Matches(NamedTuple):
    """The objects that the priors of a batch are responsible for.

    labels (B, P) int64: class, num_classes for background, IGNORED for priors without a say;
    positive (M,) int64: rows of the positives in the (B * P) flattened predictions, in order;
    boxes (M, 4) xyxy: their objects; image_share (M,): area of these boxes as a share of their
    image's; positives_per_image (B,) int64.
    """

    labels: Tensor
    positive: Tensor
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
    inside_only: bool,
) -> Matches:
    """`assign_batch`, then `collect_matches`."""
    matched = assign_batch(assigner, priors, targets, inside_only=inside_only)
    return collect_matches(matched, targets, num_classes=num_classes)


def assign_batch(
    assigner: Assigner, priors: Priors, targets: Sequence[Target], *, inside_only: bool
) -> Tensor:
    """(B, P) int64: the object of its image that each prior learns, NEGATIVE or IGNORED.

    inside_only: priors whose cell begins outside the image's own `size`, rounded up to 32, are
    ignored, and the assigner does not see them; otherwise the padding is background.
    """
    return torch.stack(
        [_match_image(assigner, priors, target, inside_only=inside_only) for target in targets]
    )


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
    return Matches(labels, positive, boxes, share, is_positive.sum(dim=1))


def _match_image(
    assigner: Assigner, priors: Priors, target: Target, *, inside_only: bool
) -> Tensor:
    """(P,) int64: index of the object, NEGATIVE or IGNORED."""
    if not inside_only:
        matched = assigner(priors, target.boxes)
    else:
        height, width = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in target.size)
        inside = priors_inside(priors, (height, width))
        seen = priors.select(inside)
        matched = target.labels.new_full((len(priors),), IGNORED)
        matched[inside] = assigner(seen, target.boxes)
    return ignore_inside(matched, priors.centers, target.ignore_boxes)


def positives_of_each_image(matches: Matches) -> Tensor:
    """Sum over the images of max(1, positives): a float scalar, the normaliser of RetinaNet."""
    return matches.positives_per_image.clamp(min=1).sum().float()
