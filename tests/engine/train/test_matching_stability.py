"""Matching stability: the share of queries whose object changed, by hand."""

from __future__ import annotations

from typing import Any

import torch

from detcli.engine.train.matching_stability import MatchingStability

NO_DETECTOR: Any = None  # what it would match is given by hand


def test_changes_are_counted_by_query() -> None:
    stability = MatchingStability(NO_DETECTOR)
    assert stability.update({0: torch.tensor([4, 2, 7]), 1: torch.tensor([1])}) == (0, 0)
    # Query 4 keeps object 0; 2 and 7 swap theirs; 1 gives its object to 3.
    assert stability.update({0: torch.tensor([4, 7, 2]), 1: torch.tensor([3])}) == (4, 5)
    assert stability.update({0: torch.tensor([4, 7, 2]), 1: torch.tensor([3])}) == (0, 4)
    # An object without a query (-1) frees one that had it.
    assert stability.update({0: torch.tensor([4, -1, 2]), 1: torch.tensor([3])}) == (1, 4)


def test_empty_images_and_resuming() -> None:
    stability, resumed = MatchingStability(NO_DETECTOR), MatchingStability(NO_DETECTOR)
    stability.update({0: torch.zeros(0, dtype=torch.int64), 5: torch.tensor([1, 2])})
    resumed.load_state_dict(stability.state_dict())
    now = {0: torch.zeros(0, dtype=torch.int64), 5: torch.tensor([1, 3])}
    assert resumed.update(now) == stability.update(now) == (2, 3)
