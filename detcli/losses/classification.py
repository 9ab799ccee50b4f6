"""Classification losses of dense heads with sigmoid classifiers.

Letters: M samples, K samples with an object, C classes; label C is background. q: IoU of the
predicted box with its object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detcli.losses.dense_sum import DenseSum, row_losses
from detcli.types import check_shape


class Formula(Protocol):
    """A loss of single entries: background_scale x p^gamma x -log(1 - p) in rows of background,
    `object_terms` in rows with an object."""

    @property
    def needs_quality(self) -> bool:
        """Whether object_terms looks at the quality."""

    @property
    def background_scale(self) -> float:
        """Factor of the entries in rows of background."""

    @property
    def gamma(self) -> float:
        """Power of the probability in rows of background; 0: plain cross entropy."""

    def object_terms(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Tensor:
        """(K, C) losses of logits (K, C) with labels (K,) and quality (K,) from 0 to 1."""


@dataclass(frozen=True)
class ClassLoss:
    """A formula, summed over all entries; weight: factor of the sum."""

    formula: Formula
    weight: float
    num_background: ClassVar[int] = 0  # outputs beside those of the classes

    @property
    def needs_quality(self) -> bool:
        """Whether it wants the IoU of each predicted box with its object."""
        return self.formula.needs_quality

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

        logits (M, C) of any float type; labels (M,) int64 up to C, which is background; rows with
        a negative label do not count; quality (M,) from 0 to 1, read where there is an object and
        only if `needs_quality`; weights (M,) of the rows or None. Finite for all finite logits;
        exact zero that keeps the graph for M = 0. Raises ValueError on other shapes.
        """
        self._check(logits, labels, quality)
        if weights is not None:
            check_shape("weights", weights, len(logits))
        formula = self.formula
        dtype = torch.promote_types(logits.dtype, torch.float32)
        factor = logits.new_tensor(self.weight, dtype=dtype)
        total: Tensor = DenseSum.apply(
            logits,
            labels,
            quality,
            weights,
            factor if divisor is None else factor / divisor,
            formula.background_scale,
            formula.gamma,
            formula.object_terms,
        )
        return total

    def of_each_row(self, logits: Tensor, labels: Tensor, quality: Tensor | None = None) -> Tensor:
        """(M,) what each row adds to the unweighted sum, without a gradient; as `__call__`."""
        self._check(logits, labels, quality)
        formula = self.formula
        losses = row_losses(
            logits, labels, quality, formula.background_scale, formula.gamma, formula.object_terms
        )
        return losses * self.weight

    def _check(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> None:
        check_shape("logits", logits, None, None)
        check_shape("labels", labels, len(logits))
        if quality is not None:
            check_shape("quality", quality, len(logits))


@dataclass(frozen=True)
class Focal:
    """-alpha_t (1 - p_t)^gamma log(p_t) (Lin et al. 2017, equation 5).

    alpha: fraction of the positive entries' weight; gamma >= 0. label_smoothing e: in rows with an
    object, the target y is 1 - e for its class and e for the others, as in Szegedy et al. 2016
    with one two-way choice per class; alpha_t, p_t and the cross entropy are then linear in y.
    Rows of background keep the target 0: a floor of e under a hundred thousand of them would
    outweigh the objects and lift all scores above the threshold of candidates.
    """

    alpha: float
    gamma: float
    label_smoothing: float
    needs_quality: ClassVar[bool] = False

    @property
    def background_scale(self) -> float:
        return 1 - self.alpha

    def object_terms(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Tensor:
        y = _smooth_targets(logits, labels, self.label_smoothing)
        share = self.alpha * y + (1 - self.alpha) * (1 - y)
        # 1 - p_t, without cancellation
        missing = torch.sigmoid(logits) * (1 - y) + torch.sigmoid(-logits) * y
        return share * _power(missing, self.gamma) * _cross_entropy(logits, y)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-log(p_t), each entry with weight 1; label_smoothing as in `Focal`."""

    label_smoothing: float
    needs_quality: ClassVar[bool] = False
    background_scale: ClassVar[float] = 1.0
    gamma: ClassVar[float] = 0.0

    def object_terms(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Tensor:
        return _cross_entropy(logits, _smooth_targets(logits, labels, self.label_smoothing))


@dataclass(frozen=True)
class Varifocal:
    """q x cross entropy against q for the class of an object, -k p^gamma log(1 - p) for all
    else (VarifocalNet, Zhang et al. 2021).

    negative_weight: k, in the paper alpha, though it is no share as in `Focal`; gamma >= 0: how
    strongly easy negatives are damped.
    """

    negative_weight: float
    gamma: float
    needs_quality: ClassVar[bool] = True

    @property
    def background_scale(self) -> float:
        return self.negative_weight

    def object_terms(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Tensor:
        y, is_class = _rated_targets(logits, labels, quality)
        damping = self.negative_weight * _power(torch.sigmoid(logits), self.gamma)
        return y.where(is_class, damping) * _cross_entropy(logits, y)


@dataclass(frozen=True)
class QualityFocal:
    """|y - p|^gamma x cross entropy against y, which is q for the class of an object and 0 for all
    else (Generalized Focal Loss, Li et al. 2020; its beta is `gamma` here)."""

    gamma: float
    needs_quality: ClassVar[bool] = True
    background_scale: ClassVar[float] = 1.0

    def object_terms(self, logits: Tensor, labels: Tensor, quality: Tensor | None) -> Tensor:
        y, _ = _rated_targets(logits, labels, quality)
        distance = (torch.sigmoid(logits) - y).abs()
        return _power(distance, self.gamma) * _cross_entropy(logits, y)


def _smooth_targets(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """(K, C): 1 - smoothing for the label, smoothing for all other classes."""
    return torch.full_like(logits, smoothing).scatter_(1, labels[:, None], 1 - smoothing)


def _rated_targets(logits: Tensor, labels: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
    """(K, C) the quality for the label and 0 for all other classes; (K, C) bool: is the label."""
    assert quality is not None
    is_class = F.one_hot(labels, logits.shape[1]).bool()
    rated = quality.to(logits.dtype)[:, None]
    return rated.where(is_class, 0.0), is_class


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Binary cross entropy of each entry against targets y from 0 to 1."""
    return F.binary_cross_entropy_with_logits(logits, y, reduction="none")


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0 with a finite slope, which for exponents below 1 is infinite
    at 0."""
    if exponent == 2:
        return base.square()
    return base.clamp(min=torch.finfo(base.dtype).tiny).pow(exponent)
