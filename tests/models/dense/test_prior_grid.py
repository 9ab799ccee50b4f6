"""Priors of a grid."""

from __future__ import annotations

import torch

from detcli.models.dense.prior_grid import PriorGrid, square_shapes


def test_grid_fitted_to_the_canvas() -> None:
    fitted = PriorGrid(square_shapes((8,), 1.0), (8,), fit_grid=True)
    centers = fitted([torch.zeros(1, 1, 3, 4)], (25, 47)).centers
    assert centers[:5].tolist() == [[0, 0], [11, 0], [22, 0], [33, 0], [0, 8]]
