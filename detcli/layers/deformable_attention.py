"""Attention that looks at a few places of several maps (Deformable DETR, arXiv 2010.04159).

Letters: B images, Q queries, N cells of all maps, D channels, H heads, L maps, P places that a head
looks at in a map; h, w cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcli.layers.deform import without_autocast
from detcli.layers.sampling import sample_maps


class DeformableAttention(nn.Module):
    """Each query predicts where to look, and how much each of the places counts.

    The weights of a head are a soft-max over its places in all maps. At the start the heads look in
    directions around a circle, place p at p cells from the reference, all places alike.
    """

    def __init__(self, channels: int, *, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, 2 * places)
        self.attention_weights = nn.Linear(channels, places)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        for part in (self.value, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        for part in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(part.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(self._first_offsets().flatten())

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
        valid: Tensor | None,
    ) -> Tensor:
        """(B, Q, D) from queries (B, Q, D) and tokens (B, N, D) of maps of `shapes` (h, w).

        references, in shares of each map, padding included: points (B, Q, L, 2), offsets then are
        in cells; or boxes (B, Q, L, 4) of centre x, y, width and height, offsets then are in shares
        of half a box. valid (B, N): cells in the padding count as zeros; None: all are valid.
        """
        batch, count, _ = queries.shape
        per_query = (batch, count, self.num_heads, self.num_levels, self.num_points)
        values = self.value(tokens)
        if valid is not None:
            values = values.masked_fill(~valid[..., None], 0.0)
        offsets = self.sampling_offsets(queries).float().view(*per_query, 2)
        weights = self.attention_weights(queries).float()
        weights = weights.unflatten(2, (self.num_heads, -1)).softmax(dim=-1).view(per_query)
        with without_autocast(queries):  # places are too coarse in lower precision
            places = self._places(references, offsets, shapes)
            heads = values.float().unflatten(2, (self.num_heads, -1))
            mixed = sample_maps(heads, places, weights, shapes)
        y: Tensor = self.output(mixed.to(values.dtype))
        return y

    def _places(
        self, references: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """(B, Q, H, L, P, 2) x and y in fractions of each map."""
        # Repeated for every place: sums and quotients over rows of two numbers take several times
        # as long as over those of a whole head.
        per_place = references[:, :, None, :, None].repeat(1, 1, 1, 1, self.num_points, 1)
        centers = per_place[..., :2]
        if references.shape[-1] == 2:
            sides = offsets.new_tensor([[width, height] for height, width in shapes])
            return centers + offsets / sides[:, None].repeat(1, self.num_points, 1)
        return centers + offsets / self.num_points * per_place[..., 2:] * 0.5

    def _first_offsets(self) -> Tensor:
        """(H, L, P, 2): p cells from the reference, in the direction of the head."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ways = torch.stack([angles.cos(), angles.sin()], dim=-1)
        ways = ways / ways.abs().amax(dim=-1, keepdim=True)  # on a square
        steps = torch.arange(1, self.num_points + 1)
        grid = ways[:, None, None] * steps[:, None]
        return grid.expand(-1, self.num_levels, -1, -1)
