"""Folders of finished trials without training: made-up predictions, costs and failures."""

from __future__ import annotations

import json
from pathlib import Path

from detcli.engine.ablate.plan import make_plan
from detcli.engine.ablate.session import make_trials
from detcli.engine.ablate.trial import Trial, write_result
from detcli.predictions import PredictionsMeta, write_predictions
from tests.cli.predicted import find_candidates, write_data_set
from tests.recipes import write_tiny


def make_folder(folder: Path, seeds: int = 2, mode: str = "add-one"):
    """The plan and trials of an ablation of ema and mosaic; mosaic finds the better boxes."""
    recipe = write_tiny(folder)
    plan = make_plan(str(recipe), (), ("ema", "mosaic"), mode=mode, seeds=seeds, budget=1.0)
    trials = make_trials(plan, folder / "out", ())
    truth = write_data_set(folder)
    for number, trial in enumerate(trials):
        finish(trial, truth, folder / "truth.json", number)
    return plan, trials


def finish(trial: Trial, truth, annotations: Path, number: int) -> None:
    """As a trial leaves its folder."""
    trial.run.mkdir(parents=True)
    (trial.folder / "recipe.yaml").write_text(trial.yaml)
    better = trial.system in ("mosaic", "all", "all-but-ema")
    found = find_candidates(truth, noise_px=3.0 if better else 6.0, seed=100 + number)
    meta = PredictionsMeta(
        kind="detections", ground_truth=str(annotations), score_threshold=0.05, recipe="tiny"
    )
    write_predictions(trial.predictions, found, truth, meta)
    lines = [
        {"kind": "epoch", "epoch": 1, "memory_gib": 1.5, "seconds": 2.0, "images": 8},
        {"kind": "epoch", "epoch": 2, "memory_gib": 2.0, "seconds": 4.0, "images": 8},
        {"kind": "eval", "epoch": 2, "seconds": 0.4},
    ]
    if trial.system == "mosaic":
        lines.append({"kind": "fired", "epoch": 1, "mosaic": 0, "flip_horizontal": 3})
    (trial.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_result(trial, None)
