"""Matching stability of set predictors: how many queries changed their object since the last epoch
(the instability of DN-DETR, Li et al. 2022, arXiv 2203.01305, as a fraction)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from detcli.data.loader import Loader
from detcli.engine.run.batch import forward
from detcli.models.detector import Detector, MatchesQueries
from detcli.recipe import Recipe

NUM_IMAGES = 100  # of the evaluation split, on each rank: always the same, not augmented


@dataclass
class MatchingStability:
    """The query of each object, (N,) for every image by its position, after the last epoch."""

    detector: MatchesQueries
    queries: dict[int, Tensor] = field(default_factory=dict)

    def update(self, queries: dict[int, Tensor]) -> tuple[int, int]:
        """Take in what is matched now: how many queries have another object than before, or one in
        only one of the two epochs, and how many had one in either; 0, 0 for the first time."""
        before, self.queries = self.queries, queries
        changed = total = 0
        for image, now in queries.items():
            if image not in before:
                continue
            old = before[image]
            kept = int(((old == now) & (now >= 0)).sum())
            matched = len(set(old[old >= 0].tolist()) | set(now[now >= 0].tolist()))
            changed, total = changed + matched - kept, total + matched
        return changed, total

    def state_dict(self) -> dict[int, Tensor]:
        return dict(self.queries)

    def load_state_dict(self, state: dict[int, Tensor]) -> None:
        self.queries = dict(state)


def stability_of(detector: Detector) -> MatchingStability | None:
    """Where the detector is one that matches queries."""
    return MatchingStability(detector) if isinstance(detector, MatchesQueries) else None


@torch.no_grad()
def matched_queries(
    detector: Detector,
    matcher: MatchesQueries,
    recipe: Recipe,
    loader: Loader,
    device: torch.device,
) -> dict[int, Tensor]:
    """The matches of the first images of this rank's part of `loader`; the detector, of which
    `matcher` tells them, is in training mode afterwards."""
    detector.eval()
    found: dict[int, Tensor] = {}
    for batch in loader.start(0):
        if len(found) >= NUM_IMAGES:
            break
        outputs, targets = forward(detector, recipe, batch, device)
        queries = matcher.matched_queries(outputs, targets)
        found |= {index: one.cpu() for index, one in zip(batch.indices, queries, strict=True)}
    detector.train()
    return found
