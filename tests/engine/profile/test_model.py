"""Parameters, state and fusing of recipes' networks; multiply-adds of any network are in
tests/models/test_macs.py, those of the published ones in tests/contracts/test_size.py, too."""

import json
import math

import pytest
import torch
from torch import nn

from detcli.engine.detect.export import plain_recipe
from detcli.engine.profile.macs import count_macs
from detcli.engine.profile.model import Latency, measure_models, parts_of, state_bytes
from detcli.engine.profile.network import Case, build_network, input_shape, within_memory
from detcli.engine.run.build import build_model
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.train.build import optimizer_of
from detcli.errors import UsageError
from detcli.recipe import load_recipe, recipe_from_dict
from tests.recipes import TINY, merged

pytestmark = pytest.mark.slow

ALONE = Ranks(0, 1, torch.device("cpu"))
QUIET = RunLog(quiet=True)
COCO = tuple(f"class {index}" for index in range(80))
REP = {"neck": {"conv": "rep"}, "head": {"conv": "rep", "norm": "none", "implicit": True}}


def tiny(**changes):
    return recipe_from_dict(merged(TINY, changes), "test")


def network(recipe, classes=("a", "b"), size=(64, 96)):
    return build_network(Case(recipe, tuple(classes)), size, ALONE, QUIET)


# Parameters and trainable parameters in millions and multiply-adds of 800 x 1280 in billions as
# published; "Mem" of the table in the notes.
@pytest.mark.parametrize(
    ("name", "total", "trainable", "gmacs", "noted"),
    [
        ("atss_r50", 32.30, 32.07, 205, 257.9),
        ("fcos_r50_caffe", 32.30, 32.02, 200, 257.7),
        ("retinanet_r50", 37.97, 37.74, 239, None),
    ],
)
def test_recipes_have_the_published_size(name, total, trainable, gmacs, noted):
    recipe = load_recipe(name).recipe
    found = build_network(Case(recipe, COCO), (800, 1280), ALONE, QUIET)
    counts = [(one.numel() / 1e6, one.requires_grad) for one in found.detector.parameters()]
    assert sum(count for count, _ in counts) == pytest.approx(total, rel=0.01)
    assert sum(count for count, learns in counts if learns) == pytest.approx(trainable, rel=0.01)
    image = torch.empty(1, 3, *found.shape, device="meta")
    assert count_macs(found.detector, image).total / 1e9 == pytest.approx(gmacs, rel=0.01)
    if noted is not None:
        assert state_bytes(recipe, found.detector) / 1e6 == pytest.approx(noted, rel=0.002)


@pytest.mark.parametrize(
    "optim", [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "adamw", "lr": 0.001}]
)
def test_state_is_what_a_checkpoint_holds(optim):
    recipe = tiny(optim=optim, model={"backbone": {"frozen_stages": 1, "norm": "frozen_bn"}})
    detector = build_model(recipe, 2)
    optimizer = optimizer_of(recipe, detector, 0.01)
    for parameter in detector.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = list(detector.state_dict().values())
    held += [
        value
        for state in optimizer.state_dict()["state"].values()
        for name, value in state.items()
        if value is not None and name != "step"  # a single number
    ]
    assert state_bytes(recipe, detector) == sum(tensor.nbytes for tensor in held)


def test_a_plain_network_is_measured_at_every_batch_size():
    made = network(tiny())
    (found,) = measure_models([made], QUIET, batches=[2, 1], seconds=0.01)
    assert found.image == (64, 96)
    assert found.fused is None
    assert found.fused_names == ()
    assert [latency.batch for latency in found.cost.latencies] == [2, 1]
    assert all(len(latency.times_ms) >= 3 for latency in found.cost.latencies)
    assert all(latency.memory_gib > 0 for latency in found.cost.latencies)
    top = [part for part in found.parts if part.depth == 1]
    assert sum(part.parameters for part in top) == found.cost.parameters
    assert sum(part.macs for part in top) == found.cost.macs.total
    assert 0 < sum(part.kept for part in top) <= found.kept
    assert not made.detector.training


def test_fusing_is_measured_and_gives_the_plain_network():
    recipe = tiny(model=REP)
    made = network(recipe)
    (found,) = measure_models([made], QUIET, batches=[1], seconds=0.01)
    plain = build_model(plain_recipe(recipe, "test"), 2)
    assert found.fused.parameters == sum(one.numel() for one in plain.parameters())
    assert found.fused.parameters < found.cost.parameters
    assert found.fused.macs.total < found.cost.macs.total
    assert {"neck.output.0", "head.box"} <= set(found.fused_names)
    assert len(found.fused.latencies[0].times_ms) == len(found.cost.latencies[0].times_ms)
    assert any("rep" in type(part).__name__.lower() for part in made.detector.modules())


def test_two_networks_have_figures_of_their_own():
    networks = [network(tiny(model=REP)), network(tiny(), classes=COCO)]
    first, second = measure_models(networks, QUIET, batches=[1, 2], seconds=0.01)
    assert (first.fused is not None, second.fused is not None) == (True, False)
    assert (first.num_classes, second.num_classes) == (2, 80)
    assert second.cost.parameters == sum(p.numel() for p in networks[1].detector.parameters())
    for pair in zip(first.cost.latencies, second.cost.latencies, strict=True):
        assert pair[0].batch == pair[1].batch
        assert len(pair[0].times_ms) == len(pair[1].times_ms)


def test_lists_of_modules_are_no_level():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"deep": nn.Linear(3, 3)}))
            self.heads = nn.ModuleList([nn.Sequential(nn.Linear(3, 4)), nn.Linear(3, 5)])

    found = {part.name: (part.depth, part.parameters) for part in parts_of(Net(), {}, {})}
    assert found == {
        "trunk": (1, 21),
        "trunk.0": (2, 9),
        "trunk.1": (2, 12),
        "heads.0": (1, 16),
        "heads.0.0": (2, 16),
        "heads.1": (1, 20),
    }


def test_rates_and_percentiles():
    latency = Latency(4, tuple(float(value) for value in range(1, 102)), 0.0)
    assert latency.percentiles_ms == {"p50": 51.0, "p90": 91.0, "p99": 100.0}
    assert latency.images_per_s == pytest.approx(4 * 101 / (sum(range(1, 102)) / 1000))
    assert json.dumps(latency.percentiles_ms, allow_nan=False)


@pytest.mark.parametrize(
    ("data", "size", "wanted"),
    [
        ({}, (800, 1333), (800, 1344)),
        ({}, None, (64, 64)),
        ({"pad_multiple": 1}, (300, 301), (300, 301)),
        ({"resize": {"short": [480, 800], "long": 1333}}, None, (800, 1344)),
    ],
)
def test_input_is_padded_as_the_recipe_pads(data, size, wanted):
    assert input_shape(tiny(data=data), size) == wanted


@pytest.mark.parametrize("size", [(7, 7), (31, 800), (800, 8193)])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(UsageError, match=rf"--size {size[0]}x{size[1]}: expected sides of 32 to"):
        input_shape(tiny(), size)


def test_input_is_laid_out_as_in_training():
    recipe = tiny(train={"channels_last": True})
    images = network(recipe).noise(2)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.shape == (2, 3, 64, 96)
    assert torch.equal(images, network(recipe).noise(2))


def test_precision_is_the_recipes(monkeypatch):
    seen = []
    made = network(tiny(train={"amp": "bf16"}))

    def look(images, sizes):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))

    monkeypatch.setattr(made.detector, "forward", look)
    made.forward(made.noise(1))
    assert made.precision == "bfloat16"
    assert seen == [(True, False)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_one_clear_line(error):
    made = network(tiny())
    wanted = "64 images of 64 x 96 do not fit into the memory of cpu"
    with pytest.raises(UsageError, match=wanted), within_memory(64, made):
        raise error
    with pytest.raises(RuntimeError, match="other"), within_memory(64, made):
        raise RuntimeError("other")


def test_public_weights_are_not_fetched(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", asked.append)
    made = network(load_recipe("atss_r50", ["model.backbone.depth=18"]).recipe)
    assert asked == []
    assert math.prod(made.shape) == 64 * 96
