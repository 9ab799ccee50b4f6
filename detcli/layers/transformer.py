"""Attention and the layers of a transformer (arXiv 1706.03762), as DETR (arXiv 2005.12872) has
them: codes of positions are added to queries and keys of every attention, not to its values.

Letters: B images, N tokens, Q queries, K keys, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from detcli.recipe.sections.models.deformable_detr import DeformableTransformer
    from detcli.recipe.sections.models.detr import Transformer


class Attention(nn.Module):
    """Multi-head attention: softmax(q k / sqrt(channels of a head)) v in every head.

    The projections of queries, keys and values lie below each other in `project`. dropout: share
    of the attention weights that are 0 in training.
    """

    def __init__(self, channels: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.project = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        for part in (self.project, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None
    ) -> Tensor:
        """(B, Q, D) from queries (B, Q, D), keys and values (B, K, D).

        valid (B, K) bool: the keys that are looked at, at least one of each image; None: all.
        """
        weight_qk, weight_v = self.project.weight.tensor_split([2 * queries.shape[2]])
        bias_qk, bias_v = self.project.bias.tensor_split([2 * queries.shape[2]])
        if queries is keys:  # one matrix product for both
            q, k = F.linear(queries, weight_qk, bias_qk).chunk(2, dim=2)
        else:
            (weight_q, weight_k), (bias_q, bias_k) = weight_qk.chunk(2), bias_qk.chunk(2)
            q, k = F.linear(queries, weight_q, bias_q), F.linear(keys, weight_k, bias_k)
        v = F.linear(values, weight_v, bias_v)
        mixed = F.scaled_dot_product_attention(
            self._heads(q),
            self._heads(k),
            self._heads(v),
            attn_mask=None if valid is None else valid[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y

    def among(self, x: Tensor, codes: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D): every token of x (B, N, D), with codes of its position, looks at all of
        them."""
        placed = x + codes
        y: Tensor = self(placed, placed, x, valid)
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """(B, heads, N, D / heads) from (B, N, D)."""
        batch, count, channels = x.shape
        return x.view(batch, count, self.num_heads, channels // self.num_heads).transpose(1, 2)


class Residual(nn.Module):
    """Something added to its input, with a layer norm after the sum, or with `norm_first` before
    the something (arXiv 2002.04745)."""

    def __init__(self, channels: int, *, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.dropout = dropout
        self.norm_first = norm_first

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, N, D) to the same shape."""
        if self.norm_first:
            return x + F.dropout(branch(self.norm(x)), self.dropout, self.training)
        y: Tensor = self.norm(x + F.dropout(branch(x), self.dropout, self.training))
        return y


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, for every token by itself."""

    def __init__(self, channels: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.reduce = nn.Linear(hidden, channels)
        self.dropout = dropout
        for part in (self.expand, self.reduce):
            nn.init.xavier_uniform_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same shape."""
        hidden = F.relu(self.expand(x))
        y: Tensor = self.reduce(F.dropout(hidden, self.dropout, self.training))
        return y


class EncoderLayer(nn.Module):
    """Every token looks at all of them; then the feed-forward layers."""

    def __init__(self, options: Transformer) -> None:
        super().__init__()
        channels, dropout = options.channels, options.dropout
        self.attention = Attention(channels, num_heads=options.num_heads, dropout=dropout)
        self.feed_forward = FeedForward(channels, options.ffn_channels, dropout=dropout)
        self.residuals = residuals(2, channels, dropout=dropout, norm_first=options.norm_first)

    def forward(self, x: Tensor, codes: Tensor, valid: Tensor | None) -> Tensor:
        """(B, N, D) to the same shape; codes (B, N, D) of the positions, valid (B, N) or None."""
        x = self.residuals[0](x, lambda y: self.attention.among(y, codes, valid))
        x = self.residuals[1](x, self.feed_forward)
        return x


class DecoderLayer(nn.Module):
    """Every query looks at all queries, then at the tokens of the encoder; then the feed-forward
    layers. build_cross: makes the attention that looks at the tokens; None: plain attention."""

    def __init__(
        self,
        options: Transformer | DeformableTransformer,
        build_cross: Callable[[], nn.Module] | None = None,
        *,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        channels, dropout = options.channels, options.dropout
        plain = partial(Attention, channels, num_heads=options.num_heads, dropout=dropout)
        self.attention = plain()
        self.cross_attention = (build_cross or plain)()
        self.feed_forward = FeedForward(channels, options.ffn_channels, dropout=dropout)
        self.residuals = residuals(3, channels, dropout=dropout, norm_first=norm_first)

    def forward(self, x: Tensor, codes: Tensor, *seen: Any) -> Tensor:
        """(B, Q, D) to the same shape; codes (B, Q, D) of the queries; seen: what the second
        attention is given behind its queries, such as keys and tokens (B, K, D) and the valid ones
        among them."""
        x = self.residuals[0](x, lambda y: self.attention.among(y, codes))
        x = self.residuals[1](x, lambda y: self.cross_attention(y + codes, *seen))
        x = self.residuals[2](x, self.feed_forward)
        return x


def residuals(count: int, channels: int, *, dropout: float, norm_first: bool) -> nn.ModuleList:
    """The sums of a layer, in the order in which they are taken."""
    return nn.ModuleList(
        Residual(channels, dropout=dropout, norm_first=norm_first) for _ in range(count)
    )


def run(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """layer(*inputs); recompute: where a gradient is wanted, what is inside is not kept but
    computed again in the backward pass, which costs time and saves memory (arXiv 1604.06174)."""
    y: Tensor
    if recompute and torch.is_grad_enabled():
        y = checkpoint(layer, *inputs, use_reentrant=False)
    else:
        y = layer(*inputs)
    return y
