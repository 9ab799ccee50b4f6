"""What `detcli eval` and `detcli predict` share: a detector out of a checkpoint, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcli.data.records import Records
from detcli.engine.detect.evaluate import Evaluation, evaluate
from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_eval_loader, build_model, read_split
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.predictions import GROUND_TRUTH, write_measured
from detcli.errors import CheckpointError, UsageError
from detcli.models.detector import Detector
from detcli.recipe import Recipe, load_recipe, override_recipe, recipe_from_dict


@dataclass(frozen=True)
class Trained:
    """A detector with its weights, the recipe it was made from and the classes it knows; folder:
    of the run, or where the checkpoint `path` is."""

    recipe: Recipe
    detector: Detector
    path: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    folder: Path


def load_trained(
    target: str, weights: Path | None, overrides: Sequence[str], ranks: Ranks
) -> Trained:
    """The detector of a run folder, of a checkpoint, or of a recipe with `weights`.

    Raises CheckpointError, RecipeError or UsageError.
    """
    place = Path(target)
    is_recipe = place.suffix in (".yaml", ".yml") or not place.exists()
    if is_recipe and weights is None:
        load_recipe(target, overrides)  # a mistyped name is said first
        raise UsageError(f"{target}: a recipe has no weights; name a run, or add --checkpoint FILE")
    path = weights if weights is not None else checkpoint.find(place)
    content = checkpoint.load(checkpoint.find(path))
    if is_recipe:
        recipe = load_recipe(target, overrides).recipe
    else:
        recipe = override_recipe(
            recipe_from_dict(content["recipe"], str(path)), overrides, str(path)
        )
    detector = build_model(recipe, len(content["class_names"]), pretrained=False)
    _load_exactly(detector, content, path)
    return Trained(
        recipe,
        detector.to(ranks.device).eval(),
        path,
        tuple(content["class_names"]),
        tuple(content["category_ids"]),
        place if place.is_dir() else path.parent,
    )


def _load_exactly(detector: Detector, content: dict[str, Any], path: Path) -> None:
    try:
        detector.load_state_dict(checkpoint.weights_of(content))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{path}: the weights ({content['recipe']['model']['name']}, "
            f"{len(content['class_names'])} classes) do not fit the recipe's detector: {first}"
        ) from None


def measure(
    trained: Trained, split: str, ranks: Ranks, log: RunLog
) -> tuple[Records, Evaluation | None]:
    """Evaluate on a split of the recipe's data, with the checkpoint's classes in their order."""
    records = read_split(trained.recipe, split, trained.class_names)
    for sentence in records.notes.sentences():
        log.say(f"{split}: {sentence}")
    loader = build_eval_loader(trained.recipe, records, ranks)
    return records, evaluate(trained.detector, trained.recipe, records, loader, ranks, log)


def write_evaluation(
    folder: Path, recipe: Recipe, records: Records, result: Evaluation, *, candidates: bool
) -> list[Path]:
    """Write predictions.json, and candidates.npz on request, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GROUND_TRUTH).unlink(missing_ok=True)  # of an earlier evaluation on other data
    found = result.detections
    written = [write_measured(folder, "predictions.json", found, records, recipe, "detections")]
    if candidates:
        raw = result.candidates
        written.append(write_measured(folder, "candidates.npz", raw, records, recipe, "candidates"))
    return written
