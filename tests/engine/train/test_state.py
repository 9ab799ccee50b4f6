"""What a checkpoint of a run remembers comes back."""

from __future__ import annotations

from pathlib import Path

import torch

from detcli.engine.run import checkpoint
from detcli.engine.train.loop import epoch_batches, train_batch
from detcli.engine.train.state import restore, save, stateful
from tests.engine.train.interrupt import assert_same_state
from tests.engine.train.test_step import trainer_of


def test_a_restored_trainer_is_where_the_saved_one_was(tmp_path: Path) -> None:
    changes = {"train": {"ema": {"decay": 0.9, "warmup_steps": 2}, "log_every": 1}}
    first = trainer_of(tmp_path, **changes)
    first.network.detector.train()
    for batch in epoch_batches(first):
        train_batch(first, batch)
        if first.position.batch == 3:
            break
    save(first, "last.pt")
    second = trainer_of(tmp_path, **changes)
    restore(second, checkpoint.load(tmp_path / "last.pt"))
    assert second.position == first.position
    mine, theirs = stateful(second), stateful(first)
    for name in ("model", "ema"):
        assert_same_state(mine[name].state_dict(), theirs[name].state_dict())
    states = [part["optimizer"].state_dict()["state"] for part in (mine, theirs)]
    assert len(states[0]) == len(states[1]) > 0
    for ours, saved in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(ours["momentum_buffer"], saved["momentum_buffer"])
    assert mine["meter"].seen == theirs["meter"].seen == 6
    assert (mine["swa"], mine["distill"], mine["stability"]) == (None, None, None)
