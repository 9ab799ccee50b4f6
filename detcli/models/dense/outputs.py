"""What a dense detector predicts.

Letters: B images, C classes, A priors per cell; h, w cells of a level.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenseOutputs(NamedTuple):
    """Raw predictions, one entry per level, channels anchor-major.

    class_logits (B, A * C, h, w), for a soft-max (B, A * (C + 1), h, w), background last; boxes
    (B, A * 4, h, w), as the detector's coder reads them. Empty where it is not predicted:
    centerness (B, 1, h, w), logits; iou (B, A, h, w), logits; sigma (B, A * 4, h, w), log variances
    of the errors of left, top, right and bottom; density (B, A, h, w). auxiliary: the outputs of
    the auxiliary head, in training and where there is one; canvas: (height, width) of the padded
    batch.
    """

    class_logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    iou: tuple[Tensor, ...]
    sigma: tuple[Tensor, ...]
    density: tuple[Tensor, ...]
    auxiliary: tuple[DenseOutputs, ...]
    canvas: tuple[int, int]
