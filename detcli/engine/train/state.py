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


def save(trainer: Trainer, name: str) -> None:
    """Write a checkpoint from which the run goes on exactly."""
    run, network = trainer.run, trainer.network
    if not run.ranks.is_main:
        return
    checkpoint.save(
        run.folder / name,
        {
            **identity(trainer),
            "kind": "training",
            "model": network.detector.state_dict(),
            **trainer.averages.state_dict(),
            "holds": trainer.averages.holds(trainer.position.epoch),
            "distill": None if network.distill is None else network.distill.state_dict(),
            "stability": None if trainer.stability is None else trainer.stability.state_dict(),
            "optimizer": network.optimizer.state_dict(),
            "schedule": trainer.schedule.state_dict(),
            "scaler": network.scaler.state_dict(),
            "meter": trainer.meter.state_dict(),
            "position": vars(trainer.position).copy(),
            "world_size": run.ranks.world_size,
            "explicit_lr": trainer.learning_rate.explicit,
            "metrics_bytes": run.log.size(),
        },
    )


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a trainer back to where a checkpoint stands."""
    network = trainer.network
    network.detector.load_state_dict(content["model"])
    trainer.averages.load_state_dict(content)
    if network.distill is not None:
        network.distill.load_state_dict(content["distill"])
    if trainer.stability is not None:
        trainer.stability.load_state_dict(content["stability"])
    network.optimizer.load_state_dict(content["optimizer"])
    trainer.schedule.load_state_dict(content["schedule"])
    trainer.meter.load_state_dict(content["meter"])
    if content["scaler"]:
        network.scaler.load_state_dict(content["scaler"])
    trainer.position = Position(**content["position"])
    trainer.run.log.cut(content["metrics_bytes"])
