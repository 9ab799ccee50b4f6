"""What the log says about blocks, and starting from a checkpoint without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detcli.engine.run.build import build_model
from detcli.engine.run.start_weights import load_weights
from detcli.engine.train.announce import announce_blocks
from detcli.engine.train.overfit import overfit_recipe
from detcli.errors import CheckpointError
from detcli.recipe import Recipe, load_recipe
from tests.recipes import write_tiny


def built(folder: Path, *tricks: str, **model: Any) -> tuple[Recipe, nn.Module]:
    recipe = load_recipe(write_tiny(folder, model=model), tricks=tricks).recipe
    torch.manual_seed(0)
    return recipe, build_model(recipe, 2)


def said(recipe: Recipe, detector: nn.Module) -> list[str]:
    lines: list[str] = []
    announce_blocks(recipe, detector, lines.append)
    return lines


def test_each_block_has_its_line(tmp_path: Path) -> None:
    tricks = ("se", "dcn", "dilation", "dropout-gaussian", "norm-bn")
    assert said(*built(tmp_path, *tricks)) == [
        "attention se: stages 2, 3, 4, 6 of them; their 87920 parameters are randomly initialised",
        "deformable convolutions v2: stages 2, 3, 4, 6 of them; their 435618 parameters are "
        "randomly initialised",
        "dilation: stage 4, 1, 2, 5 in turn; strides stay as they are",
        "model.head.norm bn: all levels share one set of running statistics",
        "dropout gaussian, rate 0.1: on the features before each prediction, in training",
    ]
    assert said(*built(tmp_path)) == []
    (line,) = said(*built(tmp_path, "dropout-uniform"))
    assert line.startswith("dropout uniform, beta 0.1: ")


def test_the_overfit_check_has_no_dropout(tmp_path: Path) -> None:
    recipe, _ = built(tmp_path, "dropout", "gc")
    model = overfit_recipe(recipe, 2).model
    assert model.head.dropout is None
    assert model.backbone.attention.name == "gc"


def checkpoint(recipe: Recipe, detector: nn.Module, names: list[str]) -> dict[str, Any]:
    return {
        "kind": "weights",
        "recipe": recipe.model_dump(mode="json"),
        "class_names": names,
        "model": detector.state_dict(),
    }


def test_blocks_start_fresh_on_top_of_a_checkpoint_without_them(tmp_path: Path) -> None:
    recipe, plain = built(tmp_path)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    content = checkpoint(recipe, plain, ["a", "b"])
    _, full = built(tmp_path, "gc", "dcn-v1")
    lines: list[str] = []
    load_weights(full, content, lines.append)
    own = full.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())
    assert lines[0].startswith(f"weights: {len(plain.state_dict())} tensors loaded")
    assert ": backbone.stages.1.0.conv2.conv." in lines[0]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # neither shows before it has learned
        first, second = plain.eval()(x), full.eval()(x)
    torch.testing.assert_close(first.class_logits, second.class_logits, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_with_blocks_needs_a_recipe_with_them(tmp_path: Path) -> None:
    recipe, full = built(tmp_path, "gc")
    _, plain = built(tmp_path)
    content = checkpoint(recipe, full, ["a", "b"])
    with pytest.raises(CheckpointError, match=r"not in this model backbone\.stages\.1\.0\.attent"):
        load_weights(plain, content, print)
