"""Scenes whose boxes are painted in colours of their own."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st

from detcli.data.transforms import Sample
from tests.data.transforms.augmenting import measured, painted

FEW = settings(max_examples=25, deadline=None)


SEEDS = st.integers(0, 10_000)


@st.composite
def scenes(draw: Any, num_max: int = 3, first: int = 0) -> Sample:
    """A black image with painted boxes that do not overlap, some of them ignored."""
    height, width = draw(st.integers(40, 90)), draw(st.integers(40, 90))
    cell_x, cell_y = width // 2, height // 2
    boxes, ignore = [], []
    for number in range(draw(st.integers(0, num_max))):
        left, top = number % 2 * cell_x, number // 2 * cell_y
        w, h = draw(st.integers(6, cell_x - 4)), draw(st.integers(6, cell_y - 4))
        x, y = (
            left + draw(st.integers(0, cell_x - w - 1)),
            top + draw(st.integers(0, cell_y - h - 1)),
        )
        boxes.append([x, y, x + w, y + h])
        ignore.append(draw(st.booleans()))
    return painted((height, width), boxes, ignore, first)


def agree(sample: Sample, tolerance: float) -> None:
    """Every box is where its paint is."""
    height, width = sample.size
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= torch.tensor([width, height] * 2)).all()
    for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True):
        # A pixel of which less than half is covered is dark, so a narrow rest shows nothing.
        if (box[2:] - box[:2]).min() >= 3:
            assert torch.allclose(measured(sample, label), box, atol=tolerance), (label, box)


def whole(sample: Sample) -> torch.Tensor:
    """Boxes that no border cuts: of a cut slanted shape the visible part can be smaller."""
    height, width = sample.size
    inner = torch.tensor([width, height]) - 1
    return ((sample.boxes[:, :2] > 1) & (sample.boxes[:, 2:] < inner)).all(dim=1)


def noise(height: int = 40, width: int = 60, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
