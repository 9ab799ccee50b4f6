"""The transformer of Deformable DETR (arXiv 2010.04159).

Letters: B images, C classes, D channels, Q queries, L maps, N cells of all maps; h, w cells of a
map.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from detcli.layers.deformable_attention import DeformableAttention
from detcli.layers.positions import wave_codes
from detcli.layers.transformer import DecoderLayer, FeedForward, residuals, run
from detcli.models.set_prediction.set_head import SetHead

if TYPE_CHECKING:
    from detcli.recipe.sections.models import deformable_detr

FIRST_SIDE = 0.05  # of the image: side of a proposal in the finest map, twice that in each next one
MARGIN = 0.01  # of the image: proposals nearer to a side are left out
EPSILON = 1e-5  # of shares whose logit is taken


class Memory(NamedTuple):
    """The maps, as layers look at them.

    tokens (B, N, D), one map after the other; shapes: (h, w) of each; valid (B, N) bool, None where
    nothing is padding; ratios (B, L, 2): valid share of width and height of each map.
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    valid: Tensor | None
    ratios: Tensor


class DeformableEncoderLayer(nn.Module):
    """Every cell looks at places of all maps; then the feed-forward layers."""

    def __init__(self, options: deformable_detr.DeformableTransformer) -> None:
        super().__init__()
        channels, dropout = options.channels, options.dropout
        self.attention = _attention(options)
        self.feed_forward = FeedForward(channels, options.ffn_channels, dropout=dropout)
        self.residuals = residuals(2, channels, dropout=dropout, norm_first=False)

    def forward(
        self,
        x: Tensor,
        codes: Tensor,
        references: Tensor,
        shapes: tuple[tuple[int, int], ...],
        valid: Tensor | None,
    ) -> Tensor:
        """(B, N, D) to the same shape; codes (B, N, D); references (B, N, L, 2)."""
        x = self.residuals[0](x, lambda y: self.attention(y + codes, references, y, shapes, valid))
        x = self.residuals[1](x, self.feed_forward)
        return x


def _attention(options: deformable_detr.DeformableTransformer) -> DeformableAttention:
    return DeformableAttention(
        options.channels,
        num_heads=options.num_heads,
        num_levels=options.num_levels,
        num_points=options.num_points,
    )


class LearnedQueries(nn.Module):
    """A learned code and start for each query; its code tells the point that it looks from."""

    def __init__(self, channels: int, num_queries: int) -> None:
        super().__init__()
        self.codes_and_starts = nn.Parameter(torch.randn(num_queries, 2 * channels))
        self.reference_points = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes and starts (B, Q, D), and reference points (B, Q, 2) in shares of the image."""
        codes, starts = self.codes_and_starts.repeat(batch, 1, 1).chunk(2, dim=2)
        return codes, starts, self.reference_points(codes).float().sigmoid()


class Proposals(nn.Module):
    """The first of two stages: a class and a box for each cell, the best of which are queries."""

    def __init__(self, channels: int, num_queries: int) -> None:
        super().__init__()
        self.channels = channels
        self.num_queries = num_queries
        self.project = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.codes = nn.Linear(2 * channels, 2 * channels)
        self.codes_norm = nn.LayerNorm(2 * channels)
        for part in (self.project, self.codes):
            nn.init.xavier_uniform_(part.weight)

    def forward(
        self, memory: Memory, head: SetHead
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Codes and starts (B, Q, D) and boxes (B, Q, 4) of the best cells; class logits (B, N, C)
        and boxes (B, N, 4) of all of them."""
        logits_of_boxes, usable = first_boxes(memory)
        tokens = memory.tokens.masked_fill(~usable[..., None], 0.0)
        class_logits, deltas = head(self.norm(self.project(tokens)))
        moved = deltas.float() + logits_of_boxes
        count = min(self.num_queries, moved.shape[1])
        best = class_logits[..., 0].topk(count, dim=1).indices  # all labels are 0 in this stage
        chosen = moved.gather(1, best[..., None].expand(-1, -1, 4)).detach().sigmoid()
        waves = wave_codes(chosen * (2 * math.pi), self.channels // 2).flatten(2)
        made = self.codes_norm(self.codes(waves.to(tokens.dtype)))
        codes, starts = made.chunk(2, dim=2)
        return (codes, starts, chosen), (class_logits, moved.sigmoid())


class DeformableTransformer(nn.Module):
    """An encoder over the cells of all maps, and a decoder that predicts after every layer.

    heads: one for all layers, or with `refine` one for each, and in two stages one more for the
    encoder; refine: each layer predicts how the box of the one before has to change.
    """

    def __init__(
        self,
        options: deformable_detr.DeformableTransformer,
        *,
        queries: LearnedQueries | Proposals,
        heads: nn.ModuleList,
        refine: bool,
    ) -> None:
        super().__init__()
        self.refine = refine
        self.recompute = options.recompute
        self.level_codes = nn.Parameter(torch.randn(options.num_levels, options.channels))
        self.queries = queries
        self.heads = heads
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(options) for _ in range(options.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(options, partial(_attention, options))
            for _ in range(options.decoder_layers)
        )

    def forward(
        self, memory: Memory, codes: Tensor
    ) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, ...]]:
        """Class logits (B, Q, C) and boxes (B, Q, 4) of each layer; proposals as in the outputs.
        codes (B, N, D): of the positions, those of the maps included."""
        tokens, places = memory.tokens, cell_centers(memory)
        for layer in self.encoder:
            tokens = run(
                layer, tokens, codes, places, memory.shapes, memory.valid, recompute=self.recompute
            )
        memory = memory._replace(tokens=tokens)
        proposals: tuple[Tensor, ...] = ()
        if isinstance(self.queries, Proposals):
            (query_codes, x, references), proposals = self.queries(memory, self.heads[-1])
        else:
            query_codes, x, references = self.queries(len(tokens))
        logits, boxes = [], []
        for index, layer in enumerate(self.decoder):
            ratios = memory.ratios.repeat(1, 1, references.shape[-1] // 2)[:, None]
            x = run(
                layer,
                x,
                query_codes,
                references[:, :, None] * ratios,
                tokens,
                memory.shapes,
                memory.valid,
                recompute=self.recompute,
            )
            class_logits, deltas = self.heads[index if self.refine else 0](x)
            box = moved_boxes(references, deltas.float())
            logits.append(class_logits)
            boxes.append(box)
            if self.refine:
                references = box.detach()
        return logits, boxes, proposals


def valid_ratio(valid: Tensor) -> Tensor:
    """(B, 2) the share of width and height of a map that is valid; valid (B, h, w)."""
    shares = [valid[:, 0].float().mean(dim=1), valid[:, :, 0].float().mean(dim=1)]
    return torch.stack(shares, dim=1)


def cell_places(memory: Memory) -> list[Tensor]:
    """(B, h * w, 2) for each map: x and y of the middles of its cells, in shares of the image."""
    device = memory.tokens.device
    places = []
    for level, (height, width) in enumerate(memory.shapes):
        sides = memory.ratios[:, level] * memory.ratios.new_tensor([width, height])  # (B, 2)
        y, x = torch.meshgrid(
            torch.arange(height, device=device) + 0.5,
            torch.arange(width, device=device) + 0.5,
            indexing="ij",
        )
        cells = torch.stack([x, y], dim=-1).flatten(0, 1)
        places.append(cells / sides[:, None])
    return places


def cell_centers(memory: Memory) -> Tensor:
    """(B, N, L, 2): the middle of each cell, in shares of each map, padding included."""
    return torch.cat(cell_places(memory), dim=1)[:, :, None] * memory.ratios[:, None]


def first_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """(B, N, 4) logits of the box that each cell begins with, infinite where (B, N) bool, second,
    says that it is of no use: in the padding, or close to a side of the image."""
    boxes = torch.cat(
        [
            torch.cat([places, torch.full_like(places, FIRST_SIDE * 2.0**level)], dim=2)
            for level, places in enumerate(cell_places(memory))
        ],
        dim=1,
    )
    usable = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(dim=2)
    if memory.valid is not None:
        usable = usable & memory.valid
    logits = torch.log(boxes / (1 - boxes))
    return logits.masked_fill(~usable[..., None], math.inf), usable


def moved_boxes(references: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (B, Q, 4) from reference points (B, Q, 2) or boxes (B, Q, 4) and what is added to their
    logits (B, Q, 4)."""
    inside = references.clamp(min=0, max=1)
    logits = torch.log(inside.clamp(min=EPSILON) / (1 - inside).clamp(min=EPSILON))
    if references.shape[-1] == 4:
        return (deltas + logits).sigmoid()
    return torch.cat([deltas[..., :2] + logits, deltas[..., 2:]], dim=-1).sigmoid()
