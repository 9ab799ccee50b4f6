"""The second stage: what proposals should learn, the head that looks at them, its losses and boxes.

Letters: B images, R regions of the batch, r regions of one image, M positives of the batch,
C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detcli.assign import IGNORED, Assigner, RandomSampler, ignore_inside
from detcli.layers.dropout import Dropout
from detcli.losses.box import deviation
from detcli.models.dense.estimates import ALPHA_STD
from detcli.models.dense.matching import Matches
from detcli.models.dense.terms import Criterion, box_term, object_factors
from detcli.ops.boxes import box_area, box_centers, clip_boxes
from detcli.ops.coders import BoxCoder, DeltaCoder
from detcli.ops.priors import Priors
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import two_stage


class Samples(NamedTuple):
    """Regions that learn, and what.

    regions: (r, 4) xyxy of each image; matches: of all of them, as of one image with R priors;
    is_object: (r,) bool of each image, the region is the box of an object itself.
    """

    regions: tuple[Tensor, ...]
    matches: Matches
    is_object: tuple[Tensor, ...]


class RegionOutputs(NamedTuple):
    """Raw predictions of a second stage for the regions (r, 4) xyxy of each image: class_logits
    (R, C + 1), background last; boxes (R, 4 C), deltas of each class, or (R, 4); sigma, of the same
    shape: log variances of the errors of left, top, right and bottom, or None; densities (r,): of
    the proposals of each image, or (); samples: what they should learn, None without targets."""

    regions: tuple[Tensor, ...]
    class_logits: Tensor
    boxes: Tensor
    sigma: Tensor | None
    densities: tuple[Tensor, ...]
    samples: Samples | None


@dataclass(frozen=True)
class Stage:
    """How regions learn in one look at them: its criterion, the code of the boxes, and the factor
    of its losses."""

    criterion: Criterion
    coder: DeltaCoder
    weight: float = 1.0


class RegionHead(nn.Module):
    """Fully connected layers with ReLUs on the pooled features, then a soft-max over the classes
    and background, which is last, and the deltas of each class or, class_agnostic, of the region.

    options: num_fcs layers of so many channels; dropout: noise before the predictions, or None.
    sigma: also predict log variances of the sides.
    """

    def __init__(
        self,
        in_features: int,
        options: two_stage.RegionHead,
        *,
        num_classes: int,
        class_agnostic: bool,
        sigma: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [in_features, *[options.channels] * options.num_fcs]
        self.fcs = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        noise = options.dropout
        self.dropout: Dropout | None = None
        if noise is not None:
            self.dropout = Dropout(noise.name, rate=noise.rate, beta=noise.beta)
        self.class_logits = nn.Linear(widths[-1], num_classes + 1)
        self.box = nn.Linear(widths[-1], 4 if class_agnostic else 4 * num_classes)
        for layer in self.fcs:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.class_logits, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.sigma = nn.Linear(widths[-1], self.box.out_features) if sigma else None
        if self.sigma is not None:
            nn.init.normal_(self.sigma.weight, std=ALPHA_STD)
            nn.init.zeros_(self.sigma.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits (R, C + 1), deltas (R, 4 C), or (R, 4), and as many log variances, of pooled
        (R, D, side, side)."""
        x = pooled.flatten(1)
        for layer in self.fcs:
            x = F.relu_(layer(x))
        if self.dropout is not None:
            x = self.dropout(x)
        return self.class_logits(x), self.box(x), None if self.sigma is None else self.sigma(x)


def region_priors(regions: Tensor) -> Priors:
    """Regions (R, 4) xyxy as what their deltas start from."""
    return Priors(
        regions, box_centers(regions), torch.ones_like(regions[:, 0]), (regions.shape[0],)
    )


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    *,
    assigner: Assigner,
    sampler: RandomSampler,
    num_classes: int,
) -> Samples:
    """The boxes of an image's objects, which learn themselves, and its proposals (r, 4), assigned
    and drawn from; labels are classes, num_classes for background."""
    regions, matched, is_object = [], [], []
    with phase("assignment"):
        for boxes, target in zip(proposals, targets, strict=True):
            rows, own, known = _sample_image(boxes, target, assigner, sampler)
            regions.append(rows)
            matched.append(own)
            is_object.append(known)
    return Samples(
        tuple(regions), _matches(matched, targets, num_classes=num_classes), tuple(is_object)
    )


def region_losses(
    criterion: Criterion, coder: BoxCoder, outputs: RegionOutputs
) -> tuple[Tensor, Tensor]:
    """Class and box loss of sampled regions, float32 scalars with their weights; both divided by
    the number of regions, the mean over all ranks and at least 1."""
    samples, logits, deltas = outputs.samples, outputs.class_logits, outputs.boxes
    assert samples is not None, "a loss needs a forward pass with targets"
    labels, positive = samples.matches.labels.flatten(), samples.matches.positive
    with torch.autocast(logits.device.type, enabled=False):
        count = logits.new_tensor(len(logits), dtype=torch.float32)
        count = all_rank_mean(count, at_least=1)
        classes = _class_term(criterion, logits, labels, samples)
        rows = of_class(deltas[positive].float(), labels[positive])
        alpha = None
        if outputs.sigma is not None:
            alpha = of_class(outputs.sigma[positive].float(), labels[positive])
        starts = region_priors(torch.cat(samples.regions)[positive])
        box = box_term(criterion, coder, rows, samples.matches, starts, alpha=alpha)
        return classes / count, box / count


def image_candidates(
    scores: Tensor,
    deltas: Tensor,
    regions: Tensor,
    *,
    coder: BoxCoder,
    score_threshold: float,
    size: tuple[int, int],
    columns: Mapping[str, Tensor],
) -> Candidates:
    """Candidates of one image, best first: every class of a region whose score (r, C) is above the
    threshold, with the box of deltas (r, 4 C) or (r, 4) from the region (r, 4), cut at the sides of
    `size` (height, width). Equal scores: in the order of the regions, then of the classes.

    columns: "sigma", log variances of the shape of the deltas, and "density" (r,), if any.
    """
    region, label = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[region, label]
    order = score.argsort(descending=True, stable=True)
    region, label = region[order], label[order]
    starts = region_priors(regions[region])
    boxes = clip_boxes(coder.decode(of_class(deltas[region], label), starts), size)
    extra = {name: column[region] for name, column in columns.items()}
    if "sigma" in extra:
        extra["sigma"] = deviation(of_class(extra["sigma"], label)) * coder.side_units(starts)
    return Candidates(boxes, score[order], label, extra)


def of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """(M, 4): of deltas (M, 4 C) those of the class in `labels` (M,), of (M, 4) all."""
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(len(labels), device=labels.device)
    return deltas.view(len(labels), deltas.shape[1] // 4, 4)[rows, labels]


def _sample_image(
    proposals: Tensor, target: Target, assigner: Assigner, sampler: RandomSampler
) -> tuple[Tensor, Tensor, Tensor]:
    """Regions (r, 4), their objects (r,) or NEGATIVE, and whether they are the objects' boxes."""
    starts = region_priors(proposals)
    matched = assigner(starts, target.boxes)
    matched = ignore_inside(matched, starts.centers, target.ignore_boxes)
    objects = torch.arange(len(target.labels), device=matched.device)
    everything = torch.cat([target.boxes, proposals])
    matched = sampler(torch.cat([objects, matched]))
    kept = matched != IGNORED
    is_object = torch.arange(len(everything), device=matched.device) < len(objects)
    return everything[kept], matched[kept], is_object[kept]


def _matches(matched: Sequence[Tensor], targets: Sequence[Target], *, num_classes: int) -> Matches:
    """What the regions with the objects `matched` (r,) of each image should learn."""
    labels, objects, boxes, shares, first = [], [], [], [], 0
    for own, target in zip(matched, targets, strict=True):
        object_of = own[own >= 0]
        objects.append(object_of + first)
        first += len(target.labels)
        label = torch.full_like(own, num_classes)
        label[own >= 0] = target.labels[object_of]
        labels.append(label)
        boxes.append(target.boxes[object_of])
        shares.append(box_area(boxes[-1]) / (target.size[0] * target.size[1]))
    joined = torch.cat(labels)
    positive = (joined < num_classes).nonzero().squeeze(1)
    count = torch.full((1,), len(positive), device=joined.device)
    return Matches(
        joined[None], positive, torch.cat(objects), torch.cat(boxes), torch.cat(shares), count
    )


def _class_term(criterion: Criterion, logits: Tensor, labels: Tensor, samples: Samples) -> Tensor:
    """Sum of the class loss of logits (R, C + 1); mining looks at each image by itself."""
    weights = None
    if criterion.mining is not None:
        counts = [len(regions) for regions in samples.regions]
        each = criterion.class_loss.of_each_row(logits, labels)
        losses = pad_sequence(list(torch.split(each, counts)), batch_first=True)
        padded = pad_sequence(
            list(torch.split(labels, counts)), batch_first=True, padding_value=IGNORED
        )
        mined = criterion.mining(losses, padded, logits.shape[1] - 1)
        weights = torch.cat([row[:count] for row, count in zip(mined, counts, strict=True)])
    if criterion.class_weights is not None:
        factors = object_factors(labels, criterion.class_weights)
        weights = factors if weights is None else weights * factors
    return criterion.class_loss(logits, labels, None, weights)
