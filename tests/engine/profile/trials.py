"""What the tests of the step and of the loader share: a tiny recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detcli.engine.profile.trial import build_trial
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.trainer import Trainer
from detcli.models import ssd
from detcli.recipe import Recipe, load_recipe
from tests.models.specs import SMALL_SSD, thin_vgg
from tests.recipes import write_tiny

CPU = Ranks(0, 1, torch.device("cpu"))
QUIET = RunLog(quiet=True)
SLOW_SECONDS = 0.3


@pytest.fixture(autouse=True)
def thin_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSD over a thin VGG: everything a detector does, in few milliseconds."""
    monkeypatch.setitem(ssd.BACKBONES, "vgg16", thin_vgg)


def tiny(folder: Path, *overrides: str, **changes: Any) -> Recipe:
    """A recipe of that network on generated images, in a file of `folder`."""
    path = write_tiny(folder, **changes)
    content = yaml.safe_load(path.read_text())
    content["model"] = {"name": "ssd", "backbone": {"weights": None}, **SMALL_SSD}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_recipe(path, overrides).recipe


def trial(folder: Path, *overrides: str, **changes: Any) -> Trainer:
    """A trial of the tiny recipe."""
    return build_trial(tiny(folder, *overrides, **changes), folder, CPU)
