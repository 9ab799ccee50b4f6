"""Assignment and losses of ATSS and FCOS as a loop over images and objects, as in the papers.

Written after the papers, with torchvision's loss functions: what `loss` of our detectors is held
against, in its numbers and in its time. Letters: B images, P priors of one image, G objects of
one, C classes, M positives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from detcli.ops.priors import Priors
from detcli.types import Target

TOPK = 9
DELTA_STDS = (0.1, 0.1, 0.2, 0.2)
BOX_WEIGHT = {"atss": 2.0, "fcos": 1.0}


class Predictions(NamedTuple):
    """Of all priors: class logits (B, P, C), boxes (B, P, 4), centre-ness logits (B, P)."""

    logits: Tensor
    boxes: Tensor
    centerness: Tensor


def atss_assign(priors: Priors, boxes: Tensor) -> Tensor:
    """(P,) int64 index of each prior's object, -1 for background."""
    best = torch.full((len(priors),), -1.0)
    matched = torch.full((len(priors),), -1)
    for number, box in enumerate(boxes):
        iou = box_iou(box[None], priors.boxes)[0]
        distance = (priors.centers - (box[:2] + box[2:]) / 2).square().sum(dim=1)
        candidates, start = [], 0
        for level in distance.split(list(priors.level_sizes)):
            candidates.append(start + level.topk(min(TOPK, len(level)), largest=False).indices)
            start += len(level)
        chosen = torch.cat(candidates)
        exact = iou[chosen].double()
        centers = priors.centers[chosen]
        inside = torch.cat([centers - box[:2], box[2:] - centers], dim=1).amin(dim=1) > 0.01
        wins = inside & (exact >= exact.mean() + exact.std()) & (iou[chosen] > best[chosen])
        best[chosen[wins]] = iou[chosen[wins]]
        matched[chosen[wins]] = number
    return matched


def fcos_assign(priors: Priors, boxes: Tensor) -> Tensor:
    """(P,) int64 index of each point's object, -1 for background."""
    shortest, longest = 4 * priors.strides, 8 * priors.strides
    shortest[: priors.level_sizes[0]] = 0
    longest[-priors.level_sizes[-1] :] = torch.inf
    smallest = torch.full((len(priors),), torch.inf)
    matched = torch.full((len(priors),), -1)
    for number, box in enumerate(boxes):
        sides = torch.cat([priors.centers - box[:2], box[2:] - priors.centers], dim=1)
        farthest = sides.amax(dim=1)
        area = (box[2] - box[0]) * (box[3] - box[1])
        fits = (sides.amin(dim=1) > 0) & (shortest <= farthest) & (farthest <= longest)
        wins = fits & (area < smallest)
        smallest[wins] = area
        matched[wins] = number
    return matched


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (M, 4) from deltas (M, 4), which the standard deviations of ATSS divide."""
    dx, dy, dw, dh = (deltas * deltas.new_tensor(DELTA_STDS)).unbind(1)
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(1)
    x, y, w, h = x + dx * width, y + dy * height, width * dw.exp(), height * dh.exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def decode_distances(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes (M, 4) from distances (M, 4) to the four sides."""
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)


def centerness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """(M,) centre-ness of points (M, 2) in boxes (M, 4)."""
    left, top = (points - boxes[:, :2]).unbind(1)
    right, bottom = (boxes[:, 2:] - points).unbind(1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    return (across * torch.minimum(top, bottom) / torch.maximum(top, bottom)).sqrt()


ASSIGN: dict[str, Callable[[Priors, Tensor], Tensor]] = {"atss": atss_assign, "fcos": fcos_assign}


def losses_of(
    name: str, priors: Priors, predictions: Predictions, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """The three terms of "atss" or "fcos" with GIoU, image after image."""
    terms = dict.fromkeys(("class", "box", "centerness"), torch.zeros(()))
    count, quality = 0, torch.zeros(())
    for target, *rows in zip(targets, *predictions, strict=True):
        logits, encoded, centerness = rows
        matched = ASSIGN[name](priors, target.boxes)
        positive = (matched >= 0).nonzero().squeeze(1)
        boxes, points = target.boxes[matched[positive]], priors.centers[positive]
        wanted = centerness_of(points, boxes)
        if name == "atss":
            decoded = decode_deltas(encoded[positive], priors.boxes[positive])
        else:
            decoded = decode_distances(encoded[positive], points)
        classes = torch.zeros_like(logits)
        classes[positive, target.labels[matched[positive]]] = 1
        values = {
            "class": sigmoid_focal_loss(logits, classes, reduction="sum"),
            "box": BOX_WEIGHT[name] * (generalized_box_iou_loss(decoded, boxes) * wanted).sum(),
            "centerness": torch.nn.functional.binary_cross_entropy_with_logits(
                centerness[positive], wanted, reduction="sum"
            ),
        }
        terms = {key: terms[key] + value for key, value in values.items()}
        count += max(1, len(positive)) if name == "atss" else len(positive)
        quality = quality + wanted.sum()
    lowest = 1.0 if name == "atss" else 1e-6
    by = {"class": max(1, count), "box": quality.clamp(min=lowest), "centerness": max(1, count)}
    return {key: value / by[key] for key, value in terms.items()}
