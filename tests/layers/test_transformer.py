"""Attention and transformer layers against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detcli.layers.transformer import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    Residual,
    run,
)
from detcli.recipe.sections.models.detr import Transformer

CHANNELS, HEADS, HIDDEN = 16, 4, 24


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def options(**changes: Any) -> Transformer:
    values = {"num_heads": HEADS, "ffn_channels": HIDDEN, "dropout": 0.0, **changes}
    return Transformer(channels=CHANNELS, **values)


def copy_attention(mine: Attention, theirs: nn.MultiheadAttention) -> None:
    mine.project.weight.data.copy_(theirs.in_proj_weight)
    mine.project.bias.data.copy_(theirs.in_proj_bias)
    mine.output.load_state_dict(theirs.out_proj.state_dict())


def copy_rest(feed: FeedForward, sums: list[Residual], theirs: nn.Module) -> None:
    feed.expand.load_state_dict(theirs.linear1.state_dict())
    feed.reduce.load_state_dict(theirs.linear2.state_dict())
    for number, residual in enumerate(sums, start=1):
        norm = getattr(theirs, f"norm{number}")
        nn.init.normal_(norm.weight)
        residual.norm.load_state_dict(norm.state_dict())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_attention(same: bool, masked: bool) -> None:
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    mine = Attention(CHANNELS, num_heads=HEADS, dropout=0.0)
    copy_attention(mine, theirs)
    queries = tokens(2, 5, CHANNELS)
    keys = queries if same else tokens(2, 7, CHANNELS)
    values = tokens(2, keys.shape[1], CHANNELS) + 1
    valid = torch.rand(2, keys.shape[1], generator=torch.Generator().manual_seed(1)) < 0.6
    valid[:, 0] = True
    want, _ = theirs(queries, keys, values, key_padding_mask=~valid if masked else None)
    got = mine(queries, keys, values, valid if masked else None)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(norm_first: bool) -> None:
    """torch's has no codes of positions: adding them to queries and keys is in the test below."""
    theirs = nn.TransformerEncoderLayer(
        CHANNELS, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    mine = EncoderLayer(options(norm_first=norm_first))
    copy_attention(mine.attention, theirs.self_attn)
    copy_rest(mine.feed_forward, list(mine.residuals), theirs)
    x = tokens(2, 6, CHANNELS)
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    want = theirs(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(mine(x, torch.zeros_like(x), valid), want)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer(norm_first: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        CHANNELS, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    mine = DecoderLayer(options(), norm_first=norm_first)
    copy_attention(mine.attention, theirs.self_attn)
    copy_attention(mine.cross_attention, theirs.multihead_attn)
    copy_rest(mine.feed_forward, list(mine.residuals), theirs)
    x, memory = tokens(2, 3, CHANNELS), tokens(2, 6, CHANNELS)
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    want = theirs(x, memory, memory_key_padding_mask=~valid)
    got = mine(x, torch.zeros_like(x), memory, memory, valid)
    torch.testing.assert_close(got, want)


def test_codes_go_to_queries_and_keys_and_not_to_values() -> None:
    layer = EncoderLayer(options())
    x, codes = tokens(1, 6, CHANNELS), tokens(1, 6, CHANNELS)
    seen = layer.attention(x + codes, x + codes, x, None)
    first = layer.residuals[0].norm(x + seen)
    want = layer.residuals[1].norm(first + layer.feed_forward(first))
    torch.testing.assert_close(layer(x, codes, None), want)


def test_padding_is_not_looked_at() -> None:
    layer = DecoderLayer(options())
    x, memory = tokens(1, 3, CHANNELS), tokens(1, 6, CHANNELS)
    valid = torch.tensor([[True] * 4 + [False] * 2])
    spoiled = memory.clone()
    spoiled[:, 4:] = 100.0
    codes = torch.zeros_like(x)
    want = layer(x, codes, memory, memory, valid)
    torch.testing.assert_close(layer(x, codes, spoiled, spoiled, valid), want)


def test_recomputing_changes_neither_outputs_nor_gradients() -> None:
    layer = EncoderLayer(options(dropout=0.3, norm_first=True))
    seen = []
    for recompute in (False, True):
        x = tokens(2, 6, CHANNELS).requires_grad_()
        layer.zero_grad()
        torch.manual_seed(5)  # of the drop-out
        y = run(layer, x, torch.zeros_like(x), None, recompute=recompute)
        y.square().sum().backward()
        seen.append([y, x.grad, *(p.grad.clone() for p in layer.parameters())])
    for first, second in zip(*seen, strict=True):
        torch.testing.assert_close(first, second)
    assert seen[1][0].grad_fn is not None
