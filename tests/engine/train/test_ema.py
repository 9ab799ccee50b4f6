import math

import torch
from torch import nn

from detcli.engine.train.ema import Ema


def test_average_follows_the_formula_and_copies_counters():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(model, decay=0.9, warmup_steps=10)
    expected = model[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight += 1.0
            model[1].num_batches_tracked += 1
            model[1].running_mean += 1.0
        ema.update(model, step)
        decay = 0.9 * (1 - math.exp(-step / 10))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        torch.testing.assert_close(ema.model[0].weight, expected)
    assert ema.model[1].num_batches_tracked == 5
    assert 0 < ema.model[1].running_mean[0] < 5


def test_average_is_no_training_parameter():
    ema = Ema(nn.Linear(2, 2), decay=0.9, warmup_steps=10)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert not ema.model.training


def test_first_update_takes_nearly_all_of_the_weights():
    model = nn.Linear(1, 1)
    ema = Ema(model, decay=0.9998, warmup_steps=2000)
    with torch.no_grad():
        model.weight.fill_(7.0)
    ema.update(model, 1)
    assert abs(ema.model.weight.item() - 7.0) < 0.01
