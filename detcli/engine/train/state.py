"""A training run in a checkpoint: written so that it goes on exactly, and put back."""

from __future__ import annotations

from typing import Any

from detcli.engine.run import checkpoint
from detcli.engine.train.trainer import Position, Trainer


def identity(trainer: Trainer) -> dict[str, Any]:
    """What any reader of a file of this run needs to rebuild the detector."""
    data = trainer.data
    return {
        "recipe": trainer.run.recipe.model_dump(mode="json"),
        "class_weights": None if data.class_weights is None else list(data.class_weights),
        "class_names": list(data.train_records.class_names),
        "category_ids": list(data.train_records.category_ids),
    }


def stateful(trainer: Trainer) -> dict[str, Any]:
    """The parts that a checkpoint remembers, by their keys in it; None for those that a run does
    not have."""
    network, averages = trainer.network, trainer.averages
    return {
        "model": network.detector,
        "ema": None if averages.ema is None else averages.ema.model,
        "swa": averages.swa,
        "distill": network.distill,
        "stability": trainer.stability,
        "optimizer": network.optimizer,
        "schedule": trainer.schedule,
        "scaler": network.scaler,
        "meter": trainer.meter,
    }


def save(trainer: Trainer, name: str) -> None:
    """Write a checkpoint from which the run goes on exactly."""
    run = trainer.run
    if not run.ranks.is_main:
        return
    states = {
        key: None if part is None else part.state_dict() for key, part in stateful(trainer).items()
    }
    checkpoint.save(
        run.folder / name,
        {
            **identity(trainer),
            **states,
            "kind": "training",
            "holds": trainer.averages.holds(trainer.position.epoch),
            "position": vars(trainer.position).copy(),
            "world_size": run.ranks.world_size,
            "explicit_lr": trainer.learning_rate.explicit,
            "metrics_bytes": run.log.size(),
        },
    )


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a trainer back to where a checkpoint stands."""
    for key, part in stateful(trainer).items():
        if part is not None:
            part.load_state_dict(content[key])
    trainer.position = Position(**content["position"])
    trainer.run.log.cut(content["metrics_bytes"])
