"""What is kept for the backward pass, against closed forms and against torch's profiler."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from detcli.engine.profile.activations import kept_bytes
from tests.models.specs import detector


def test_convolutions_keep_their_inputs():
    # The second one keeps what the in-place ReLU left, the sigmoid what it gave.
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1))
    model = nn.Sequential(*layers, nn.Sigmoid())
    total, by_module = kept_bytes(model, torch.randn(2, 3, 16, 10))
    cells = 2 * 16 * 10
    assert total == cells * (8 + 4) * 4
    assert by_module == {"0": cells * 8 * 4, "3": cells * 4 * 4}


def test_what_is_frozen_keeps_only_what_others_need():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    assert kept_bytes(model, x)[0] == 3 * (8 + 8 + 2) * 4
    for parameter in (*model[0].parameters(), *model[1].parameters()):
        parameter.requires_grad = False
    assert kept_bytes(model, x)[0] == 3 * (8 + 2) * 4


def test_views_and_shared_memory_count_once():
    class Twice(nn.Module):
        def forward(self, x):
            y = x.exp()
            return y.flatten(1), y * y[..., :1], y.exp()

    x = torch.randn(2, 3, 5, requires_grad=True)
    assert kept_bytes(Twice(), x)[0] == 3 * x.nbytes


@pytest.mark.parametrize("name", ["atss", "retinanet"])
def test_detectors_keep_what_stays_allocated(name):
    model = detector(name, {"backbone": {"depth": 18}}).train()
    images = torch.randn(2, 3, 96, 128)
    model(images)  # makes anchors, which stay
    total, by_module = kept_bytes(model, images)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        outputs = model(images)
    events = found.profiler.kineto_results.events()
    held = sum(event.nbytes() for event in events if event.name() == "[memory]")
    assert outputs is not None
    assert total == pytest.approx(held, rel=0.02)
    assert sum(by_module.get(part, 0) for part in ("backbone", "neck", "head")) <= total
