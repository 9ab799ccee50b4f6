"""What `detcli train` does: a new run, a resumed one, an overfit check, a dry run, a replay."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detcli.engine.detect.evaluate import Evaluation
from detcli.engine.pictures.training_curves import plot_curves
from detcli.engine.run import checkpoint, distributed, run_folder
from detcli.engine.run.batch import autocast, network_input
from detcli.engine.run.build import build_model
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.environment import environment
from detcli.engine.run.log import RunLog
from detcli.engine.train import divergence, overfit
from detcli.engine.train.build import prepare
from detcli.engine.train.loop import fit
from detcli.engine.train.memory_probe import probe_memory
from detcli.engine.train.state import restore
from detcli.engine.train.step import compute_losses
from detcli.engine.train.trainer import Trainer
from detcli.errors import CheckpointError
from detcli.evaluation import CocoMetrics
from detcli.files import write_atomically
from detcli.recipe import LoadedRecipe, dump_yaml, recipe_from_dict


@dataclass(frozen=True)
class Outcome:
    """What a training command has to show: the run folder, the last evaluation (on rank 0), and
    what to exit with."""

    folder: Path
    evaluation: Evaluation | None
    best_ap: float | None
    best_epoch: int | None
    exit_code: int = 0

    @property
    def result(self) -> CocoMetrics | None:
        return None if self.evaluation is None else self.evaluation.metrics


def new_run(
    loaded: LoadedRecipe, ranks: Ranks, *, out: Path | None, weights: Path | None, quiet: bool
) -> Outcome:
    """Train from the start in a new run folder."""
    folder = distributed.from_main(
        run_folder.create(loaded.recipe.name, out) if ranks.is_main else None
    )
    log = RunLog(folder, quiet=quiet, enabled=ranks.is_main)
    for note in loaded.notes:
        log.say(note)
    if ranks.is_main:
        write_atomically(folder / "recipe.yaml", dump_yaml(loaded.recipe))
        write_atomically(folder / "env.json", json.dumps(environment(), indent=1))
    log.say(f"run folder {folder}")
    trainer = prepare(
        loaded.recipe, folder, ranks, log, explicit_lr=is_explicit(loaded), weights=weights
    )
    return run_to_the_end(trainer)


def resume_run(folder: Path, ranks: Ranks, *, quiet: bool) -> Outcome:
    """Resume from a run folder's last.pt, exactly where it stopped."""
    content = checkpoint.load(folder / "last.pt")
    if content.get("kind") != "training":
        raise CheckpointError(f"{folder / 'last.pt'}: holds weights only, nothing to resume")
    if content["world_size"] != ranks.world_size:
        raise CheckpointError(
            f"{folder / 'last.pt'}: was trained with {content['world_size']} processes, now "
            f"there are {ranks.world_size}; an exact resume needs the same number"
        )
    recipe = recipe_from_dict(content["recipe"], str(folder / "last.pt"))
    log = RunLog(folder, quiet=quiet, enabled=ranks.is_main)
    trainer = prepare(recipe, folder, ranks, log, explicit_lr=content["explicit_lr"], resuming=True)
    restore(trainer, content)
    position = trainer.position
    log.say(
        f"resumed {folder} at epoch {position.epoch + 1}, batch {position.batch + 1}, "
        f"step {position.step}"
    )
    return run_to_the_end(trainer)


def check_overfit(
    loaded: LoadedRecipe, num_images: int, ranks: Ranks, *, out: Path | None, quiet: bool
) -> Outcome:
    """Overfit a few training images; exit code 1 when that fails."""
    recipe = overfit.overfit_recipe(loaded.recipe, num_images)
    folder = distributed.from_main(
        run_folder.create(f"{recipe.name}_overfit", out) if ranks.is_main else None
    )
    log = RunLog(folder, quiet=quiet, enabled=ranks.is_main)
    trainer = prepare(
        recipe,
        folder,
        ranks,
        log,
        explicit_lr=is_explicit(loaded),
        subset=functools.partial(overfit.first_with_objects, num_images=num_images),
    )
    trainer.goal_ap50 = overfit.GOAL_AP50
    outcome = run_to_the_end(trainer)
    ap50 = outcome.result.metrics["AP50"] if outcome.result is not None else None
    log.say(overfit.verdict(ap50))
    if outcome.evaluation is not None:
        for line in overfit.never_found(trainer.data.eval_records, outcome.evaluation.detections):
            log.say(line)
    return replace(outcome, exit_code=int((ap50 or 0.0) <= overfit.GOAL_AP50))


def dry_run(loaded: LoadedRecipe, ranks: Ranks, *, quiet: bool) -> dict[str, float]:
    """Read the data, build everything, take one forward and backward pass; write nothing.

    The loss terms of the first batch.
    """
    log = RunLog(quiet=quiet, enabled=ranks.is_main)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(loaded.recipe, Path(folder), ranks, log, explicit_lr=is_explicit(loaded))
        batch = next(iter(trainer.data.train_loader.start(0)))
        images, targets = network_input(loaded.recipe, batch, ranks.device)
        losses = compute_losses(loaded.recipe, trainer.network, images, targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    values = {name: value.item() for name, value in losses.items()}
    terms = " ".join(f"{name} {value:.4f}" for name, value in values.items())
    log.say(f"dry run: first batch {tuple(images.shape)}, {terms}; nothing was written")
    return values


def replay(path: Path, ranks: Ranks, *, quiet: bool) -> dict[str, float]:
    """Run a saved batch again with the weights it met.

    The loss terms where all are finite; DivergedError, as in the run, where they are not.
    """
    content, images, targets = divergence.load_batch(path, ranks.device)
    recipe = recipe_from_dict(content["recipe"], str(path))
    detector = build_model(
        recipe,
        len(content["class_names"]),
        pretrained=False,
        class_weights=content.get("class_weights"),
    )
    detector.load_state_dict(content["model"])
    detector.to(ranks.device).train()
    torch.manual_seed(content["seed"])
    with autocast(recipe, ranks.device):
        outputs = detector(images, targets)
    losses = detector.loss(outputs, targets)
    if recipe.train.distill is not None:
        RunLog(quiet=quiet).say(f"{path}: replayed without the distillation losses")
    broken = divergence.broken_terms(losses)
    if broken:
        raise divergence.diverged(broken, f"replay of step {content['step'] + 1}", path)
    RunLog(quiet=quiet).say(
        f"{path}: every loss term is finite here; on another device or with other threads "
        "the rounding differs"
    )
    return {name: value.item() for name, value in losses.items()}


def run_to_the_end(trainer: Trainer) -> Outcome:
    """Probe the memory, train, plot; what the run has to show."""
    probe_memory(trainer)
    result = fit(trainer)
    position, run = trainer.position, trainer.run
    if run.ranks.is_main:
        plot_curves(run.folder)
        run.log.say(
            f"done: best AP {position.best if position.best is not None else 0:.4f} "
            f"in epoch {position.best_epoch}; last.pt holds "
            f"{trainer.averages.holds(position.epoch)}; {run.folder}"
        )
    return Outcome(
        folder=run.folder, evaluation=result, best_ap=position.best, best_epoch=position.best_epoch
    )


def is_explicit(loaded: LoadedRecipe) -> bool:
    """Whether the learning rate was typed on the command line."""
    return loaded.origins["optim.lr"] == "command line"
