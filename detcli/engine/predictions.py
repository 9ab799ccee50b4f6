"""What stands beside a predictions file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from detcli.evaluation import PredictionsMeta
from detcli.recipe import Recipe


def prediction_meta(
    recipe: Recipe, split: str | None, kind: Literal["detections", "candidates"]
) -> PredictionsMeta:
    """What stands beside a predictions file of this recipe; split None: of no data set."""
    chosen = None if split is None else getattr(recipe.data, split)
    path = None
    if recipe.data.format == "coco" and chosen is not None:
        path = str((Path(recipe.data.root) / chosen.annotations).resolve())
    return PredictionsMeta(
        kind=kind,
        ground_truth=path,
        model=recipe.model.name,
        recipe=recipe.name,
        score_threshold=recipe.model.score_threshold,
    )
