"""Slots of trials on this machine."""

from __future__ import annotations

import os

import pytest

from detcli.engine.ablate.local import slots
from detcli.errors import UsageError


def test_slots_share_the_processor_or_split_the_devices(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert slots(0, 4) == [{"OMP_NUM_THREADS": "2"}] * 4
    monkeypatch.setattr("detcli.engine.ablate.local.cuda_devices", lambda: ["0", "1", "2", "3"])
    assert slots(None, None) == [{"CUDA_VISIBLE_DEVICES": name} for name in "0123"]
    assert slots(2, None) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    with pytest.raises(UsageError, match="this machine has 4 devices"):
        slots(3, 2)
