"""DETCLI_CPU_SPEED=off leaves everything to PyTorch and to the C library."""

from __future__ import annotations

import os

import pytest
import torch

from detcli import cpu
from detcli.cli.app import main
from detcli.cpu.sampling import sample_rows
from detcli.layers.sampling import sample_grids, sample_maps

SHAPES = ((4, 5), (2, 3))


@pytest.mark.parametrize(("value", "way"), [("on", sample_rows), ("off", sample_grids)])
def test_samples(monkeypatch: pytest.MonkeyPatch, value: str, way) -> None:
    values, places, weights = torch.randn(1, 26, 2, 4), torch.rand(1, 3, 2, 2, 3, 2), torch.ones(1)
    arguments = (values, places, weights.expand(1, 3, 2, 2, 3), SHAPES)
    monkeypatch.setenv(cpu.SWITCH, value)
    assert torch.equal(sample_maps(*arguments), way(*arguments))
    assert not torch.equal(sample_rows(*arguments), sample_grids(*arguments))


@pytest.mark.parametrize("value", ["on", "off"])
def test_large_pages(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(cpu.SWITCH, value)
    for name in cpu.LARGE_PAGES:
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    cpu.use_large_pages()
    assert all((name in os.environ) == (value == "on") for name in cpu.LARGE_PAGES)


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv(cpu.SWITCH, "no")
    with pytest.raises(SystemExit) as stopped:
        main(["recipes", "list"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: DETCLI_CPU_SPEED=no: expected on or off in the environment\n"
    )
