"""Matching stability of set predictors: how many queries changed their object since the last epoch
(the instability of DN-DETR, Li et al. 2022, arXiv 2203.01305, as a share)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detcli.engine.run import distributed
from detcli.engine.run.batch import autocast, network_input
from detcli.models.detector import Detector, MatchesQueries

if TYPE_CHECKING:
    from detcli.engine.train.loop import Trainer

NUM_IMAGES = 100  # of the evaluation split, on each rank: always the same, not augmented


class MatchingStability:
    """The query of each object, (N,) for every image by its position, after the last epoch."""

    def __init__(self, detector: MatchesQueries) -> None:
        self.detector = detector
        self.queries: dict[int, Tensor] = {}

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
def report_matching(trainer: Trainer, stability: MatchingStability) -> None:
    """Measure and record, on rank 0, the share of queries whose object changed in this epoch, of
    those with an object; nothing after the first epoch."""
    counts = distributed.gather(stability.update(_matched(trainer, stability.detector)))
    if counts is None:
        return
    changed, total = (sum(column) for column in zip(*counts, strict=True))
    if not total:
        return
    epoch, step = trainer.position.epoch + 1, trainer.position.step
    line = {"kind": "matching", "epoch": epoch, "step": step, "changed": changed / total}
    trainer.log.record(line)
    trainer.log.say(
        f"epoch {epoch}: {changed / total:.1%} of the {total} matched queries of up to "
        f"{NUM_IMAGES} evaluation images have another object than an epoch ago"
    )


def _matched(trainer: Trainer, detector: MatchesQueries) -> dict[int, Tensor]:
    """The matches of the first images of this rank's share of the evaluation split."""
    trainer.detector.eval()
    found: dict[int, Tensor] = {}
    for batch in trainer.eval_loader.start(0):
        if len(found) >= NUM_IMAGES:
            break
        images, targets = network_input(trainer.recipe, batch, trainer.ranks.device)
        with autocast(trainer.recipe, trainer.ranks.device):
            outputs = trainer.detector(images, targets)
        queries = detector.matched_queries(outputs, targets)
        found |= {index: one.cpu() for index, one in zip(batch.indices, queries, strict=True)}
    trainer.detector.train()
    return found
