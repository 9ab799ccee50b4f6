"""Deformable DETR: DETR over several maps, whose attention looks at a few places of each (arXiv
2010.04159).

Letters: B images, C classes, D channels, Q queries, L maps, N cells of all maps; h, w cells of a
map; H, W pixels of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.layers.conv import init_xavier
from detcli.layers.norm import GROUPS, keep_as_buffers
from detcli.layers.positions import SinePositions, valid_cells
from detcli.models.backbones.resnet import build_resnet
from detcli.models.detector import Detector, sizes_of
from detcli.models.set_prediction.deformable_transformer import (
    DeformableTransformer,
    LearnedQueries,
    Memory,
    Proposals,
    valid_ratio,
)
from detcli.models.set_prediction.set_head import SetHead
from detcli.models.set_prediction.set_loss import SetCriterion, SetOutputs, build_set_criterion
from detcli.ops.boxes import boxes_from_shares
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import deformable_detr

PRIOR_PROBABILITY = 0.01  # of every class at the start


class DeformableDETR(Detector):
    """Losses as in DETR, with a focal loss; in two stages the encoder has one of its own, for which
    all objects are of one class."""

    def __init__(
        self,
        backbone: nn.Module,
        projections: nn.ModuleList,
        positions: SinePositions,
        transformer: DeformableTransformer,
        *,
        criterion: SetCriterion,
        score_threshold: float,
        max_candidates: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projections = projections
        self.positions = positions
        self.transformer = transformer
        self.criterion = criterion
        self.score_threshold = score_threshold
        self.max_candidates = max_candidates

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> SetOutputs:
        """Raw predictions for images (B, 3, H, W).

        sizes: (height, width) of the valid part of each image, from the targets where there are
        any; None: all of the batch.
        """
        canvas = (images.shape[-2], images.shape[-1])
        valid_sizes = sizes_of(targets, sizes, canvas, len(images))
        maps = self._maps(images)
        shapes = tuple((level.shape[2], level.shape[3]) for level in maps)
        valid = [valid_cells(valid_sizes, canvas, shape, images.device) for shape in shapes]
        codes = [
            self.positions(cells).to(level.dtype).flatten(1, 2) + code
            for cells, level, code in zip(valid, maps, self.transformer.level_codes, strict=True)
        ]
        padded = any(size != canvas for size in valid_sizes)
        memory = Memory(
            torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1),
            shapes,
            torch.cat([cells.flatten(1) for cells in valid], dim=1) if padded else None,
            torch.stack([valid_ratio(cells) for cells in valid], dim=1),
        )
        logits, boxes, proposals = self.transformer(memory, torch.cat(codes, dim=1))
        return SetOutputs(tuple(logits), tuple(boxes), proposals, valid_sizes)

    def loss(self, outputs: SetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "l1" and "box" of the last decoder layer, with a number of those before
        it, and with "_encoder" of the proposals, float32 scalars with their weights."""
        return self.criterion.losses(outputs, targets)

    def matched_queries(self, outputs: SetOutputs, targets: Sequence[Target]) -> list[Tensor]:
        """The query (N,) of each object of each image in the last decoder layer, -1 for none."""
        return self.criterion.matched_queries(outputs, targets)

    @torch.no_grad()
    def decode(
        self, outputs: SetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """The best pairs of query and class, with boxes that may leave the image, as published;
        suppression has nothing to do: postprocess method "none" is as published."""
        scores = outputs.class_logits[-1].float().sigmoid()
        num_classes = scores.shape[-1]
        found = []
        for image, (height, width) in enumerate(outputs.sizes):
            flat = scores[image].flatten()
            best = flat.argsort(descending=True, stable=True)[: self.max_candidates]
            best = best[flat[best] > self.score_threshold]
            query = best.div(num_classes, rounding_mode="floor")
            sides = scores.new_tensor([width, height])
            boxes = boxes_from_shares(outputs.boxes[-1][image][query], sides)
            found.append(Candidates(boxes, flat[best], best % num_classes))
        return found

    def _maps(self, images: Tensor) -> list[Tensor]:
        """(B, D, h, w) of each level: C3, C4, C5, and what further projections make of C5."""
        features = list(self.backbone(images)[1:])
        maps: list[Tensor] = []
        for index, projection in enumerate(self.projections):
            source = features[index] if index < len(features) else features[-1]
            maps.append(projection(maps[-1] if index > len(features) else source))
        return maps


def build_deformable_detr(
    options: deformable_detr.DeformableDetr, *, num_classes: int
) -> DeformableDETR:
    """Deformable DETR from the model section of a recipe."""
    trunk = build_resnet(options.backbone)
    keep_as_buffers(trunk)
    own, two_stage = options.transformer, options.two_stage
    channels = own.channels
    num_heads = (own.decoder_layers if options.refine else 1) + two_stage
    queries = (Proposals if two_stage else LearnedQueries)(channels, options.num_queries)
    return DeformableDETR(
        trunk,
        _projections(trunk.out_channels[1:], channels, own.num_levels),
        SinePositions(channels, offset=0.5),
        DeformableTransformer(
            own,
            queries=queries,
            heads=_heads(channels, num_classes, num_heads, two_stage=two_stage),
            refine=options.refine,
        ),
        criterion=build_set_criterion(options),
        score_threshold=options.score_threshold,
        max_candidates=options.max_candidates,
    )


def _projections(in_channels: Sequence[int], channels: int, num_levels: int) -> nn.ModuleList:
    """1x1 convolutions of the backbone's maps, then 3x3 ones of stride 2, with group norms."""
    convs = [nn.Conv2d(width, channels, 1) for width in in_channels[:num_levels]]
    for level in range(len(in_channels), num_levels):
        width = in_channels[-1] if level == len(in_channels) else channels
        convs.append(nn.Conv2d(width, channels, 3, stride=2, padding=1))
    for conv in convs:
        init_xavier(conv)
    return nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(GROUPS, channels)) for conv in convs)


def _heads(channels: int, num_classes: int, count: int, *, two_stage: bool) -> nn.ModuleList:
    """Boxes begin at their references; without those of a first stage the first head's begin with a
    side of sigmoid(-2) of the image."""
    heads = nn.ModuleList(SetHead(channels, num_classes) for _ in range(count))
    for index, head in enumerate(heads):
        assert isinstance(head, SetHead)
        nn.init.constant_(head.class_logits.bias, -math.log(1 / PRIOR_PROBABILITY - 1))
        last = head.box.layers[-1]
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.zeros_(last.get_parameter("bias"))
        if index == 0 and not two_stage:
            nn.init.constant_(last.get_parameter("bias").data[2:], -2.0)
    return heads
