"""The two box codes of YOLOv4.

Letters: B images, A anchors per cell, C classes; h, w cells of a level. The channels of a level are
anchor-major: for each anchor x, y, w, h, objectness and the C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BOX_OUTPUTS = 5  # of an anchor, before those of the classes
MAX_LOG_SIDE = 50.0  # exponents above would overflow float32 once sides are multiplied


@dataclass(frozen=True)
class YoloLevel:
    """The grid of one level.

    anchors: (width, height) in pixels of the A anchors of each cell; stride: pixels per cell;
    scale_xy: how far a centre may leave its cell, 1: not at all; 1.2: by a tenth either way.
    """

    anchors: tuple[tuple[float, float], ...]
    stride: int
    scale_xy: float

    def split(self, raw: Tensor) -> Tensor:
        """(B, A, 5 + C, h, w) view of the raw outputs (B, A * (5 + C), h, w)."""
        images, channels, height, width = raw.shape
        anchors = len(self.anchors)
        return raw.view(images, anchors, channels // anchors, height, width)

    def sizes(self, like: Tensor) -> Tensor:
        """(A, 2) the anchors as a tensor on the device of `like`."""
        return torch.tensor(self.anchors, device=like.device)

    def decode(self, codes: Tensor, form: str) -> Tensor:
        """Boxes (B, A, h, w, 4) xyxy pixels from codes (B, A, 4, h, w), as `decode_codes`."""
        height, width = codes.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=codes.device),
            torch.arange(width, device=codes.device),
            indexing="ij",
        )
        return decode_codes(
            codes.permute(0, 1, 3, 4, 2),
            cells=torch.stack([x, y], dim=-1),
            anchors=self.sizes(codes)[:, None, None],
            level=self,
            form=form,
        )


def decode_codes(
    codes: Tensor, *, cells: Tensor, anchors: Tensor, level: YoloLevel, form: str
) -> Tensor:
    """Boxes (..., 4) xyxy pixels from codes (..., 4), in float32.

    cells (..., 2): column and row; anchors (..., 2) pixels. form "exp": centre s sigmoid(x) -
    (s - 1) / 2 + cell, sides exp(w) x anchor (YOLOv4; Darknet). "power": centre 2 sigmoid(x) - 0.5
    + cell, sides (2 sigmoid(w))^2 x anchor (WongKinYiu/PyTorch_YOLOv4), whatever scale_xy is.
    """
    place, side = codes.float().chunk(2, dim=-1)
    if form == "exp":
        center = place.sigmoid() * level.scale_xy - (level.scale_xy - 1) / 2 + cells
        half = side.clamp(max=MAX_LOG_SIDE).exp() * anchors / 2
    else:
        center = place.sigmoid() * 2 - 0.5 + cells
        half = (side.sigmoid() * 2).square() * anchors / 2
    center = center * level.stride
    return torch.cat([center - half, center + half], dim=-1)


def build_levels(
    anchors: Sequence[Sequence[float]], strides: Sequence[int], scale_xy: Sequence[float]
) -> tuple[YoloLevel, ...]:
    """The levels with these anchors, each a list of w1, h1, w2, h2, ... in pixels."""
    return tuple(
        YoloLevel(tuple(zip(sides[::2], sides[1::2], strict=True)), stride, scale)
        for sides, stride, scale in zip(anchors, strides, scale_xy, strict=True)
    )
