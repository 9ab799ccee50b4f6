"""DETR: objects as a set, without priors and without suppression (arXiv 2005.12872).

Letters: B images, C classes, D channels, Q queries, N cells of the last map; h, w its sides; H, W
pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detcli.layers.norm import keep_as_buffers
from detcli.layers.positions import LearnedPositions, SinePositions, valid_cells
from detcli.layers.transformer import DecoderLayer, EncoderLayer, run
from detcli.models.backbones.resnet import build_resnet
from detcli.models.detector import Detector, sizes_of
from detcli.models.set_prediction.set_head import SetHead
from detcli.models.set_prediction.set_loss import SetCriterion, SetOutputs, build_set_criterion
from detcli.ops.boxes import boxes_from_shares
from detcli.types import Candidates, Target

if TYPE_CHECKING:
    from detcli.recipe.sections.models import detr

POSITIONS: dict[str, Callable[[int], nn.Module]] = {
    "sine": partial(SinePositions, offset=0.0),
    "learned": LearnedPositions,
}


class Transformer(nn.Module):
    """An encoder over the cells of a map and a decoder with a learned code for each query.

    options: recompute, see `transformer.run`.
    """

    def __init__(self, options: detr.Transformer, *, num_queries: int) -> None:
        super().__init__()
        channels = options.channels
        self.recompute = options.recompute
        self.queries = nn.Parameter(torch.randn(num_queries, channels))
        self.encoder = nn.ModuleList(EncoderLayer(options) for _ in range(options.encoder_layers))
        self.encoder_norm = nn.LayerNorm(channels) if options.norm_first else nn.Identity()
        self.decoder = nn.ModuleList(
            DecoderLayer(options, norm_first=options.norm_first)
            for _ in range(options.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, codes: Tensor, valid: Tensor | None) -> list[Tensor]:
        """(B, Q, D) of each decoder layer, from tokens and their codes (B, N, D).

        valid (B, N) bool: the tokens that are no padding; None: all.
        """
        for layer in self.encoder:
            tokens = run(layer, tokens, codes, valid, recompute=self.recompute)
        tokens = self.encoder_norm(tokens)
        keys = tokens + codes
        queries = self.queries.repeat(len(tokens), 1, 1)
        x = torch.zeros_like(queries)
        found = []
        for layer in self.decoder:
            x = run(layer, x, queries, keys, tokens, valid, recompute=self.recompute)
            found.append(self.decoder_norm(x))
        return found


class DETR(Detector):
    """All of it is one loss per decoder layer, see `SetCriterion`; all layers share one head."""

    def __init__(
        self,
        backbone: nn.Module,
        projection: nn.Conv2d,
        positions: nn.Module,
        transformer: Transformer,
        head: SetHead,
        *,
        criterion: SetCriterion,
        score_threshold: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.positions = positions
        self.transformer = transformer
        self.head = head
        self.criterion = criterion
        self.score_threshold = score_threshold

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
        x = self.projection(self.backbone(images)[-1])
        valid = valid_cells(valid_sizes, canvas, (x.shape[2], x.shape[3]), x.device)
        padded = any(size != canvas for size in valid_sizes)
        found = self.transformer(
            x.flatten(2).transpose(1, 2),
            self.positions(valid).flatten(1, 2).to(x.dtype),
            valid.flatten(1) if padded else None,
        )
        heads = [self.head(queries) for queries in found]
        logits, codes = zip(*heads, strict=True)
        return SetOutputs(logits, tuple(code.float().sigmoid() for code in codes), (), valid_sizes)

    def loss(self, outputs: SetOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "class", "l1" and "box" of the last decoder layer, and with a number of those
        before it, float32 scalars with their weights."""
        return self.criterion.losses(outputs, targets)

    def matched_queries(self, outputs: SetOutputs, targets: Sequence[Target]) -> list[Tensor]:
        """The query (N,) of each object of each image in the last decoder layer, -1 for none."""
        return self.criterion.matched_queries(outputs, targets)

    @torch.no_grad()
    def decode(
        self, outputs: SetOutputs, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """A candidate for each query: its best class, and its box, which may leave the image, as
        published. Suppression has nothing to do: postprocess method "none" is as published."""
        scores, labels = outputs.class_logits[-1].float().softmax(dim=-1)[..., :-1].max(dim=-1)
        found = []
        for image, (height, width) in enumerate(outputs.sizes):
            sides = scores.new_tensor([width, height])
            boxes = boxes_from_shares(outputs.boxes[-1][image], sides)
            order = scores[image].argsort(descending=True, stable=True)
            order = order[scores[image][order] > self.score_threshold]
            found.append(Candidates(boxes[order], scores[image][order], labels[image][order]))
        return found


def build_detr(options: detr.Detr, *, num_classes: int) -> DETR:
    """DETR from the model section of a recipe."""
    trunk = build_resnet(options.backbone, last_map=options.backbone.last_map)
    keep_as_buffers(trunk)
    channels = options.transformer.channels
    return DETR(
        trunk,
        nn.Conv2d(trunk.out_channels[-1], channels, 1),
        POSITIONS[options.positions](channels),
        Transformer(options.transformer, num_queries=options.num_queries),
        SetHead(channels, num_classes + 1),
        criterion=build_set_criterion(options),
        score_threshold=options.score_threshold,
    )
