"""Memory that torch allocates, against tensors of known size."""

from __future__ import annotations

import sys

import pytest
import torch

from detcli.engine.profile.torch_profiler import GIB, allocated_peak_gib, forget_peak
from detcli.engine.train.meter import peak_memory_gib

CPU = torch.device("cpu")
MIB = 2**20


def test_the_peak_is_what_was_held_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    kept: list[torch.Tensor] = []
    gone = torch.ones(4 * MIB)

    def run() -> None:
        nonlocal gone
        kept.append(torch.empty(3 * MIB))
        first = torch.empty(5 * MIB)
        del first
        second = torch.empty(4 * MIB)
        del second
        kept.append(torch.empty(1 * MIB))

    assert allocated_peak_gib(run, CPU) * GIB == pytest.approx(4 * 8 * MIB, abs=4096)
    assert len(gone) == 4 * MIB  # held before: counts for nothing
    assert capfd.readouterr().err == ""


def test_a_backward_pass_holds_activations_and_gradients() -> None:
    x = torch.randn(256, 1024)
    layers = [torch.randn(1024, 1024, requires_grad=True) for _ in range(3)]

    def run() -> None:
        y = x
        for weight in layers:
            y = (y @ weight).sigmoid()
        y.sum().backward()

    found = allocated_peak_gib(run, CPU) * GIB
    gradients, activation = 3 * 4 * 1024**2, 4 * 256 * 1024
    assert gradients < found < gradients + 10 * activation


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a process's peak")
def test_a_peak_is_forgotten() -> None:
    block = torch.ones(64 * MIB)
    high = peak_memory_gib(CPU)
    del block
    forget_peak(CPU)
    assert peak_memory_gib(CPU) < high - 0.1
