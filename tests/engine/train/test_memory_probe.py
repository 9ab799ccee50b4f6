"""The memory probe needs CUDA; what it feeds to the network is checked here."""

import pytest
import torch

from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.build import prepare
from detcli.engine.train.memory_probe import probe_memory, worst_batch
from detcli.engine.train.step import compute_losses
from detcli.recipe import load_recipe
from tests.recipes import write_tiny


@pytest.fixture
def trainer(tmp_path):
    recipe = load_recipe(write_tiny(tmp_path)).recipe
    ranks = Ranks(0, 1, torch.device("cpu"))
    return prepare(recipe, tmp_path, ranks, RunLog(quiet=True), explicit_lr=False)


def test_worst_batch_is_the_largest_shape_with_the_most_boxes(trainer):
    images, targets = worst_batch(
        trainer.run.recipe, trainer.data.train_records, trainer.run.ranks.device
    )
    assert images.shape == (2, 3, 64, 64)
    most = max(
        trainer.data.train_records.rows(i).stop - trainer.data.train_records.rows(i).start
        for i in range(len(trainer.data.train_records))
    )
    assert [len(target.labels) for target in targets] == [most, most]
    for target in targets:
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
        assert target.boxes.min() >= 0
        assert target.boxes.max() <= 64
    losses = compute_losses(trainer.run.recipe, trainer.network, images, targets)
    assert all(torch.isfinite(value) for value in losses.values())


def test_the_cpu_is_not_probed(trainer):
    before = {name: value.clone() for name, value in trainer.network.detector.state_dict().items()}
    probe_memory(trainer)
    after = trainer.network.detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_probe_leaves_weights_and_buffers_alone(tmp_path):
    recipe = load_recipe(write_tiny(tmp_path)).recipe
    ranks = Ranks(0, 1, torch.device("cuda", 0))
    trainer = prepare(recipe, tmp_path, ranks, RunLog(quiet=True), explicit_lr=False)
    before = {name: value.clone() for name, value in trainer.network.detector.state_dict().items()}
    probe_memory(trainer)
    after = trainer.network.detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in trainer.network.detector.parameters())
