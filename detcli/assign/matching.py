"""What all assigners share: the codes, one box per prior, and ignored regions.

Letters: P priors, G ground-truth boxes, N pairs of a box and a prior, K ignored boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcli.types import check_shape

NEGATIVE = -1  # background
IGNORED = -2  # no part in any loss


def best_box_per_prior(prior: Tensor, box: Tensor, score: Tensor, num_priors: int) -> Tensor:
    """Index of the box with the largest score of each prior (P,) int64; NEGATIVE without any.

    prior, box (N,) int64 and score (N,): the pairs. Equal scores go to the earlier box.
    """
    best = score.new_full((num_priors,), -torch.inf).scatter_reduce_(0, prior, score, "amax")
    wins = score == best[prior]
    prior, box = prior[wins], box[wins]
    first = box.new_full((num_priors,), torch.iinfo(torch.int64).max)
    first.scatter_reduce_(0, prior, box, "amin")
    matched = box.new_full((num_priors,), NEGATIVE)
    matched[prior] = first[prior]
    return matched


def ignore_inside(matched: Tensor, centers: Tensor, ignore_boxes: Tensor) -> Tensor:
    """`matched` (P,) with every prior that has no object and whose centre lies in an ignored box
    (its border included) set to IGNORED.

    centers (P, 2) x, y and ignore_boxes (K, 4) xyxy in pixels.
    """
    check_shape("centers", centers, len(matched), 2)
    check_shape("ignore_boxes", ignore_boxes, None, 4)
    if not len(ignore_boxes):
        return matched
    from_top_left = centers[:, None] >= ignore_boxes[None, :, :2]  # (P, K, 2)
    to_bottom_right = centers[:, None] <= ignore_boxes[None, :, 2:]
    inside = (from_top_left & to_bottom_right).all(dim=2).any(dim=1)
    return matched.where((matched >= 0) | ~inside, IGNORED)
