"""Centre-ness (FCOS, Tian et al. 2019, equation 3): how near a point is to its box's centre.

Letters: M samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.types import check_shape

MIN_DISTANCE = 1e-12  # pixels; a point on both of two opposite sides has centre-ness 0, not NaN


def centerness_target(ltrb: Tensor) -> Tensor:
    """Centre-ness (M,) from 0 to 1 of distances (M, 4) to the left, top, right and bottom side.

    sqrt(min(l, r) / max(l, r) x min(t, b) / max(t, b)); 0 for a point that is not inside.
    """
    check_shape("ltrb", ltrb, None, 4)
    inside = ltrb.clamp(min=0)
    near = torch.minimum(inside[:, :2], inside[:, 2:])
    far = torch.maximum(inside[:, :2], inside[:, 2:]).clamp(min=MIN_DISTANCE)
    return (near / far).prod(dim=1).sqrt()


def centerness_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, summed, a float32 scalar; logits (M,), target (M,) from 0 to 1."""
    check_shape("logits", logits, None)
    check_shape("target", target, len(logits))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.binary_cross_entropy_with_logits(logits.to(dtype), target.to(dtype), reduction="sum")
