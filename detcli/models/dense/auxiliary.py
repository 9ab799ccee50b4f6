"""The coarse assignment of an auxiliary head (YOLOv7, Wang et al. 2022, section 4.2).

Letters: B images, P priors of one image, C classes, N pairs of a prior and the object it may learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.assign import Assigner
from detcli.models.dense.matching import Padding, assign_batch, objects_of
from detcli.models.dense.terms import predicted_iou
from detcli.models.dense.tower import flatten_levels
from detcli.ops.coders import BoxCoder
from detcli.ops.priors import Priors
from detcli.types import Target

if TYPE_CHECKING:
    from detcli.models.dense.estimates import DenseHead
    from detcli.recipe.sections.models.dense import Auxiliary as AuxiliarySection

IOU_WEIGHT = 3.0  # of -log IoU beside the class loss, in YOLOv7's and YOLOX's cost
MIN_IOU = 1e-8  # the cost of a box that does not meet its object is -log of this


@dataclass(frozen=True)
class Lead:
    """What the lead head predicts: logits of num_classes classes (B, A * C, h, w) and boxes
    (B, A * 4, h, w), which `coder` decodes, of each level."""

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    num_classes: int
    coder: BoxCoder


class Auxiliary(nn.Module):
    """A second head, of the same kind as the lead head, and how it learns.

    options: weight is the factor of its losses; relax: how much looser its assigner is, see
    `relaxed` of each; topk: an object keeps as many of its coarse priors as the sum of its topk
    best IoUs.
    """

    def __init__(self, head: DenseHead, options: AuxiliarySection) -> None:
        super().__init__()
        self.head = head
        self.options = options

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of this head with their weight and their own names: "aux_class", ..."""
        return {f"aux_{name}": self.options.weight * value for name, value in losses.items()}

    @torch.no_grad()
    def assign(
        self,
        assigner: Assigner,
        priors: Priors,
        targets: Sequence[Target],
        *,
        fine: Tensor,
        lead: Lead,
        padding: Padding,
    ) -> Tensor:
        """(B, P) int64 as `assign_batch` gives it: the lead head's assignment `fine` (B, P), and
        more priors with an object.

        Candidates are the priors that the assigner or its relaxed form gives to an object. The
        object keeps those of the lead head and the cheapest for the lead head's predictions: as
        many as the sum of its topk best IoUs, at least one. Cost: binary cross entropy of the
        classes + 3 x -log IoU.

        In YOLOv7 the candidates are cells around an object's centre with anchors of a similar
        shape; and the lead head is assigned by such a cost as well, here by its detector's rule.
        """
        coarse = assign_batch(
            assigner.relaxed(self.options.relax), priors, targets, padding=padding
        )
        matched = fine.where(fine >= 0, coarse)
        rows = (matched >= 0).flatten().nonzero().squeeze(1)  # (N,)
        objects = objects_of(matched, rows, targets)
        boxes = torch.cat([target.boxes for target in targets])[objects]
        labels = torch.cat([target.labels for target in targets])[objects]
        encoded = flatten_levels(lead.boxes, 4).flatten(0, 1)[rows].float()
        iou = predicted_iou(lead.coder, encoded, boxes, priors.take(rows % fine.shape[1]))
        logits = _rows_of(lead.class_logits, lead.num_classes, rows, fine.shape[1])
        wanted = F.one_hot(labels, lead.num_classes).to(logits.dtype)
        cost = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)
        cost = cost - IOU_WEIGHT * iou.clamp(min=MIN_IOU).log()

        best = iou.double().where(_rank_in_group(-iou, objects) < self.options.topk, 0)
        # float64: the sum, and so its floor, is then the same in any order
        quota = best.new_zeros(sum(len(target.labels) for target in targets))
        quota = quota.index_add_(0, objects, best).floor().clamp(min=1)
        chosen = rows[_rank_in_group(cost, objects) < quota[objects]]
        guided = fine.flatten().clone()
        guided[chosen] = matched.flatten()[chosen]
        return guided.view_as(fine)


def _rows_of(maps: tuple[Tensor, ...], width: int, rows: Tensor, num_priors: int) -> Tensor:
    """Float32 predictions (N, width) in `rows` (N,) of the flattened (B * P), from maps
    (B, A * width, h, w); level by level, so that the logits are never joined."""
    image, prior = rows // num_priors, rows % num_priors
    found = torch.zeros(len(rows), width, device=rows.device)
    start = 0
    for level in maps:
        flat = flatten_levels((level,), width)
        here = (prior >= start) & (prior < start + flat.shape[1])
        found[here] = flat[image[here], prior[here] - start].float()
        start += flat.shape[1]
    return found


def _rank_in_group(values: Tensor, group: Tensor) -> Tensor:
    """(N,) int64 place of each value among those of its group (N,) int64, 0 for the smallest;
    equal values: the earlier first."""
    order = values.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    counts = torch.bincount(group)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(group), device=group.device) - first[group[order]]
    return rank
