"""Assignment and losses of ATSS and FCOS, forward and backward, against the plain loop.

8 images of 800 x 1333 with up to 300 objects each, 80 classes, on given predictions: no network
runs. Without objects only the class loss is left, of 14 million entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detcli.models.dense.matching import assign_batch
from detcli.models.dense.outputs import DenseOutputs
from detcli.models.dense.tower import flatten_levels
from detcli.types import Target
from tests.benchmarks.conftest import Table
from tests.benchmarks.pairs import by_turns
from tests.benchmarks.plain_loop import ASSIGN, BOX_WEIGHT, Predictions, losses_of
from tests.models.specs import detector

STRIDES = (8, 16, 32, 64, 128)
MIXED = (0, 1, 10, 50, 300, 0, 10, 50)  # objects of the images of one batch
Result = tuple[dict[str, Tensor], tuple[Tensor, ...]]  # losses, gradients of the predictions


class Case:
    """A detector, predictions for a batch, and both ways to their losses."""

    def __init__(self, name: str, canvas: tuple[int, int], batch: int, num_classes: int) -> None:
        self.name, self.canvas = name, canvas
        loss = {"name": "giou", "weight": BOX_WEIGHT[name]}
        small = {"backbone": {"depth": 18}, "box_loss": loss}
        self.model = detector(name, small, num_classes=num_classes)
        self.generator = torch.Generator().manual_seed(0)
        sizes = [(batch, -(-canvas[0] // s), -(-canvas[1] // s)) for s in STRIDES]
        # channels last, as the heads' convolutions leave them
        noise = [
            [torch.randn(*size, channels, generator=self.generator) for size in sizes]
            for channels in (num_classes, 4, 1)
        ]
        noise[0] = [level - 4.6 for level in noise[0]]  # a probability of 0.01
        if name == "fcos":  # distances in pixels
            noise[1] = [x.exp() * 2 * s for x, s in zip(noise[1], STRIDES, strict=True)]
        self.maps = [
            tuple(level.permute(0, 3, 1, 2).requires_grad_() for level in kind) for kind in noise
        ]
        self.priors_of = self.model.priors

    def targets(self, counts: Sequence[int]) -> list[Target]:
        """So many objects of 10 to 550 pixels in each image, anywhere in images 11 pixels narrower
        than the canvas."""
        height, width = self.canvas[0], self.canvas[1] - 11
        high = torch.tensor([width, height, width, height])
        targets = []
        for num_objects in counts:
            center = torch.rand(num_objects, 2, generator=self.generator) * high[:2]
            side = torch.exp(torch.rand(num_objects, 2, generator=self.generator) * 4 + 2.3)
            boxes = torch.cat([center - side / 2, center + side / 2], dim=1)
            boxes = torch.minimum(boxes.clamp(min=0), high)
            labels = torch.arange(num_objects) % self.model.head.num_classes
            targets.append(Target(boxes, labels, torch.zeros(0, 4), (height, width)))
        return targets

    def ours(self, targets: Sequence[Target]) -> Result:
        nothing = [()] * (len(DenseOutputs._fields) - len(self.maps) - 1)  # of other branches
        outputs = DenseOutputs(*self.maps, *nothing, self.canvas)
        return self._with_gradients(self.model.loss(outputs, targets))

    def loop(self, targets: Sequence[Target]) -> Result:
        logits, boxes, centerness = self.maps
        predictions = Predictions(
            flatten_levels(logits, self.model.head.num_classes),
            flatten_levels(boxes, 4),
            flatten_levels(centerness, 1).squeeze(2),
        )
        priors = self.priors_of(boxes, self.canvas)
        return self._with_gradients(losses_of(self.name, priors, predictions, targets))

    def _with_gradients(self, losses: dict[str, Tensor]) -> Result:
        maps = [level for kind in self.maps for level in kind]
        total = torch.stack(list(losses.values())).sum()
        return losses, torch.autograd.grad(total, maps)


def check_equal(ours: Result, theirs: Result) -> None:
    for term, value in ours[0].items():
        torch.testing.assert_close(value, theirs[0][term], rtol=1e-5, atol=1e-7)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        limit = 1e-5 * max(other.abs().max().item(), 1e-9)
        assert (mine - other).abs().max().item() <= limit


@pytest.mark.parametrize("num_objects", [0, 1, 12])
@pytest.mark.parametrize("name", ASSIGN)
def test_the_loop_gives_the_same_losses_and_gradients(name: str, num_objects: int) -> None:
    case = Case(name, (256, 320), batch=2, num_classes=5)
    targets = case.targets([num_objects] * 2)
    check_equal(case.ours(targets), case.loop(targets))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("name", ASSIGN)
def test_memory_does_not_grow_with_priors_times_objects(name: str) -> None:
    """No tensor comes near the size of one float for each pair of an object and a prior."""
    case = Case(name, (800, 1344), batch=1, num_classes=1)
    priors = case.priors_of(case.maps[1], case.canvas)
    targets = case.targets([300])
    with Largest() as seen:
        assign_batch(case.model.learning.criterion.assigner, priors, targets, padding="seen")
    assert 8 * len(priors) <= seen.bytes < 4 * 300 * len(priors) / 10


@pytest.mark.bench
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("objects", [0, 1, 10, 50, 300, "0 to 300"], ids=str)
@pytest.mark.parametrize("name", ASSIGN)
def test_time_of_assignment_and_loss(name: str, objects: int | str, table: Table) -> None:
    case = Case(name, (800, 1344), batch=8, num_classes=80)
    targets = case.targets([objects] * 8 if isinstance(objects, int) else MIXED)
    check_equal(case.ours(targets), case.loop(targets))
    run: dict[str, Callable[[], Result]] = {
        "ours": lambda: case.ours(targets),
        "loop": lambda: case.loop(targets),
    }
    pair = by_turns(run["ours"], run["loop"], rounds=2 if objects == 300 else 4)
    table.add(
        f"{name}: assignment and loss, 8 x 800 x 1333, objects per image: {objects}",
        f"{pair.ours:.3f} s",
        f"loop {pair.theirs:.3f} s",
        pair.ratio,
        at_least=5,
        floor=2,
    )
