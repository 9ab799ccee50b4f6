"""What the training loop works with: parts with one job each, built by `build.prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from detcli.data.loader import Loader
from detcli.data.records import Records
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.averaging import Averages
from detcli.engine.train.distill.teacher import Distillation
from detcli.engine.train.learning_rate import LearningRate
from detcli.engine.train.matching_stability import MatchingStability
from detcli.engine.train.meter import Meter
from detcli.engine.train.schedule import Schedule
from detcli.recipe import Recipe


@dataclass
class Position:
    """Where a run stands: all of this is in the checkpoint."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch finished, on each rank
    step: int = 0  # optimiser steps taken
    best: float | None = None  # highest AP so far
    best_epoch: int | None = None


@dataclass(frozen=True)
class Run:
    """A recipe, the processes that train it, and where they write."""

    recipe: Recipe
    ranks: Ranks
    folder: Path
    log: RunLog


@dataclass(frozen=True)
class Data:
    """What is learned from and what is evaluated on; class_weights: what became of the recipe's on
    the training split."""

    train_records: Records
    train_loader: Loader
    eval_records: Records
    eval_loader: Loader
    class_weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Network:
    """A detector and what changes its weights. `model` is what the loop calls: `detector`,
    compiled, as the student of a teacher, and wrapped when there are many ranks, each where it
    applies."""

    detector: nn.Module
    model: nn.Module
    distill: Distillation | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


@dataclass
class Trainer:
    """Everything the loop works with."""

    run: Run
    data: Data
    network: Network
    averages: Averages
    learning_rate: LearningRate
    schedule: Schedule
    meter: Meter
    position: Position
    stability: MatchingStability | None = None  # of detectors that match queries
    goal_ap50: float | None = None  # of the overfit check: AP50 above which it ends
