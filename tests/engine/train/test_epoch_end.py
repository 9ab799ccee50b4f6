"""Which epoch is the best, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

from detcli.engine.run import checkpoint
from detcli.engine.train.epoch_end import Measured, keep_best
from tests.engine.train.test_step import trainer_of


def test_the_first_of_equally_good_epochs_is_kept(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    kept = []
    for epoch, ap in enumerate((None, 0.2, 0.2, 0.1, 0.3), start=1):
        trainer.position.epoch = epoch
        keep_best(trainer, Measured(metrics={"AP": ap}))
        kept.append(trainer.position.best_epoch)
    assert kept == [1, 2, 2, 2, 5]
    assert trainer.position.best == 0.3
    position = checkpoint.load(tmp_path / "best.pt")["position"]
    assert (position["best"], position["best_epoch"]) == (0.3, 5)
    assert not (tmp_path / "predictions.json").exists()  # there is no evaluation to write
