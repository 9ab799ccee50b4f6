"""Images in which each box is painted, so that one can measure where it went."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st

from detcli.data.transforms import Sample

MANY = settings(max_examples=80, deadline=None)


@st.composite
def marked_samples(draw: Any) -> Sample:
    """A black image with one white rectangle, and its box."""
    height, width = draw(st.integers(30, 90)), draw(st.integers(30, 90))
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 10, width)), draw(st.integers(y1 + 10, height))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    return Sample(image, boxes, torch.tensor([2]), torch.tensor([False]))


def measured_box(sample: Sample) -> torch.Tensor:
    """(4,) xyxy of the bright pixels."""
    rows, columns = torch.nonzero(sample.image[0] > 127, as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
