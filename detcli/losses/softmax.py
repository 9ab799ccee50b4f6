"""Classification losses of dense heads with a soft-max over the classes and background.

Letters: M samples, K samples with an object, C classes; label C is background, and so is the last
of the C + 1 logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.types import check_shape


class SoftmaxFormula(Protocol):
    """A loss of rows of logits."""

    def row_terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(M,) losses of logits (M, C + 1) with labels (M,) from 0 to C."""


@dataclass(frozen=True)
class SoftmaxLoss:
    """A formula, summed over all rows; weight: factor of the sum.

    num_background: outputs beside those of the classes; needs_quality: no formula here looks at
    the boxes.
    """

    formula: SoftmaxFormula
    weight: float
    num_background: ClassVar[int] = 1
    needs_quality: ClassVar[bool] = False

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        quality: Tensor | None = None,
        weights: Tensor | None = None,
        divisor: Tensor | None = None,
    ) -> Tensor:
        """Weighted sum, a float32 scalar (float64 for float64 logits), divided by a scalar where
        there is one.

        logits (M, C + 1) of any float type; labels (M,) int64 up to C; rows with a negative label
        do not count; quality: not read; weights (M,) of the rows or None. Finite for all finite
        logits; exact zero that keeps the graph for M = 0. Raises ValueError on other shapes.
        """
        if weights is not None:
            check_shape("weights", weights, len(logits))
        each = self._terms(logits, labels)
        total = (each if weights is None else each * weights).sum() * self.weight
        return total if divisor is None else total / divisor

    @torch.no_grad()
    def of_each_row(self, logits: Tensor, labels: Tensor, quality: Tensor | None = None) -> Tensor:
        """(M,) what each row adds to the sum, without a gradient; as `__call__`."""
        return self._terms(logits, labels) * self.weight

    def _terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        check_shape("logits", logits, None, None)
        check_shape("labels", labels, len(logits))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        counts = labels >= 0
        each = self.formula.row_terms(logits.to(dtype), labels.clamp(min=0))
        return each.where(counts, 0.0)


@dataclass(frozen=True)
class Softmax:
    """-log p of the label (SSD, Liu et al. 2016, equation 3).

    label_smoothing e: in rows with an object, the target is 1 - e for its class, and e is divided
    equally among all C + 1 outputs (Szegedy et al. 2016, section 7). Rows of background keep
    theirs, as in `Focal`.
    """

    label_smoothing: float

    def row_terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1)
        plain = -log_p.gather(1, labels[:, None]).squeeze(1)
        if self.label_smoothing == 0:
            return plain
        smooth = (1 - self.label_smoothing) * plain - self.label_smoothing * log_p.mean(dim=1)
        return smooth.where(_is_object(logits, labels), plain)


@dataclass(frozen=True)
class AMSoftmax:
    """-log p of the label after its logit was lowered by scale x margin (AM-Softmax, Wang et al.
    2018, equation 6), for logits that are scale x cosine.

    margin: by so much the cosine with the class of an object must exceed those with all other
    classes and background for the same loss. Background is one more class with weights of its
    own, but its rows have no margin: it is whatever no class is, and need not lie close together.
    """

    margin: float
    scale: float

    def row_terms(self, logits: Tensor, labels: Tensor) -> Tensor:
        lowered = self.scale * self.margin * _is_object(logits, labels).to(logits.dtype)
        shift = torch.zeros_like(logits).scatter_(1, labels[:, None], lowered[:, None])
        return F.cross_entropy(logits - shift, labels, reduction="none")


def _is_object(logits: Tensor, labels: Tensor) -> Tensor:
    """(M,) bool: the label is a class."""
    return labels < logits.shape[1] - 1
