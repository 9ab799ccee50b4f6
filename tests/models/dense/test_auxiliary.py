"""The auxiliary head: its coarse assignment, its losses, and that evaluation does not see it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import box_iou

from detcli.engine.run.start_weights import load_weights
from detcli.models.dense.auxiliary import Auxiliary, Lead
from detcli.models.dense.matching import assign_batch
from detcli.ops.coders import DeltaCoder
from detcli.ops.priors import Priors, anchor_shapes, grid_priors
from detcli.recipe.sections.models import dense as sections
from detcli.types import Target
from tests.models.specs import (
    BRANCHED_DETECTORS,
    SMALL_OF,
    criterion_of,
    detector,
    learn_by,
    target,
    tiny,
)
from tests.sections import assigner_of

pytestmark = pytest.mark.slow

CANVAS = (64, 96)
CLASSES = 3
MAPS = [(8, 12), (4, 6)]
RULES = {
    "atss": {"name": "atss", "topk": 4},
    "max_iou": {
        "name": "max_iou",
        "positive_iou": 0.5,
        "negative_iou": 0.4,
        "min_positive_iou": 0.0,
    },
    "fcos": {"name": "fcos", "center_radius": 1.0},
}


def priors_of() -> Priors:
    return grid_priors(MAPS, [8, 16], [anchor_shapes([3.0 * stride], [1.0]) for stride in (8, 16)])


def random_case(seed: int) -> tuple[Lead, list[Target]]:
    """What a lead head may predict near two images' objects; the second image may have none."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, CLASSES + 4, *size, generator=generator) for size in MAPS]
    lead = Lead(
        tuple(level[:, :CLASSES] for level in maps),
        tuple(level[:, CLASSES:] * 0.3 for level in maps),
        CLASSES,
        DeltaCoder(),
    )
    targets = []
    for count in (4, seed % 3):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 30.0])
        side = 8 + torch.rand(count, 2, generator=generator) * 30
        labels = torch.randint(CLASSES, (count,), generator=generator)
        ignored = torch.tensor([[80.0, 0, 96, 20]])
        targets.append(Target(torch.cat([corner, corner + side], 1), labels, ignored, CANVAS))
    return lead, targets


def plain_loop(
    fine: Tensor, coarse: Tensor, lead: Lead, targets: list[Target], topk: int
) -> Tensor:
    """The choice, an object and a prior at a time."""
    priors = priors_of()
    guided = fine.clone()
    for image, objects in enumerate(targets):
        logits, encoded = (
            torch.cat([level[image].flatten(1).T for level in maps])
            for maps in (lead.class_logits, lead.boxes)
        )
        ious = box_iou(lead.coder.decode(encoded, priors), objects.boxes).tolist()
        of_lead, of_relaxed = fine[image].tolist(), coarse[image].tolist()
        for number, label in enumerate(objects.labels.tolist()):
            pairs = []
            for prior, row in enumerate(logits.tolist()):
                mine = of_lead[prior] if of_lead[prior] >= 0 else of_relaxed[prior]
                if mine != number:
                    continue
                iou = ious[prior][number]
                cost = -3 * math.log(max(iou, 1e-8))
                for other, logit in enumerate(row):
                    p = 1 / (1 + math.exp(-logit))
                    cost -= math.log(p if other == label else 1 - p)
                pairs.append((cost, prior, iou))
            best = sorted((iou for *_, iou in pairs), reverse=True)[:topk]
            for _, prior, _ in sorted(pairs)[: max(1, math.floor(sum(best)))]:
                guided[image, prior] = number
    return guided


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(RULES)), st.sampled_from([1, 3, 20]))
def test_the_choice_equals_a_plain_loop(seed: int, rule: str, topk: int) -> None:
    lead, targets = random_case(seed)
    priors, assigner = priors_of(), assigner_of(**RULES[rule])
    fine, coarse = (
        assign_batch(each, priors, targets, padding="seen")
        for each in (assigner, assigner.relaxed(2.0))
    )
    auxiliary = Auxiliary(nn.Identity(), sections.Auxiliary(topk=topk))
    got = auxiliary.assign(assigner, priors, targets, fine=fine, lead=lead, padding="seen")
    assert torch.equal(got, plain_loop(fine, coarse, lead, targets, topk))
    assert torch.equal(got[fine >= 0], fine[fine >= 0])  # never fewer than the lead head


def test_a_good_lead_head_opens_the_coarse_assignment() -> None:
    """Boxes of IoU 1 let an object keep up to topk priors; boxes that miss it, one."""
    priors, assigner = priors_of(), assigner_of(**RULES["fcos"])
    box = [20.0, 12, 52, 44]
    targets = [target([box], [1], CANVAS)]
    fine = assign_batch(assigner, priors, targets, padding="seen")
    coarse = assign_batch(assigner.relaxed(3.0), priors, targets, padding="seen")
    assert 8 < (coarse >= 0).sum() < 20
    encoded = DeltaCoder().encode(torch.tensor([box]).expand(len(priors), 4), priors)
    logits = tuple(torch.zeros(1, CLASSES, *size) for size in MAPS)
    for shift, wanted in ((0.0, coarse), (50.0, None)):
        moved = encoded + torch.tensor([shift, 0, 0, 0])
        parts = moved.split([height * width for height, width in MAPS])
        boxes = tuple(part.T.reshape(1, 4, *size) for part, size in zip(parts, MAPS, strict=True))
        auxiliary = Auxiliary(nn.Identity(), sections.Auxiliary(weight=1.0, relax=3.0))
        got = auxiliary.assign(
            assigner,
            priors,
            targets,
            fine=fine,
            lead=Lead(logits, boxes, CLASSES, DeltaCoder()),
            padding="seen",
        )
        if wanted is None:
            assert ((got >= 0) & (fine < 0)).sum() <= 1
        else:
            assert torch.equal(got >= 0, wanted >= 0)


def test_many_objects_in_no_image() -> None:
    priors, assigner = priors_of(), assigner_of(**RULES["atss"])
    targets = [target([], [], CANVAS), target([], [], CANVAS)]
    lead, _ = random_case(0)
    fine = assign_batch(assigner, priors, targets, padding="ignored")
    auxiliary = Auxiliary(nn.Identity(), sections.Auxiliary())
    got = auxiliary.assign(assigner, priors, targets, fine=fine, lead=lead, padding="ignored")
    assert torch.equal(got, fine)


def images() -> Tensor:
    return torch.randn(2, 3, *CANVAS, generator=torch.Generator().manual_seed(1))


def some_targets() -> list[Target]:
    return [target([[10, 12, 40, 60]], [0], CANVAS), target([[20, 3, 60, 60]], [1], CANVAS)]


def model_of(name: str, **changes: Any) -> nn.Module:
    frozen = {"backbone": {"norm_eval": True}}  # the same numbers in training and evaluation
    return detector(name, SMALL_OF[name], tiny(name), frozen, changes, num_classes=CLASSES)


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
def test_it_adds_terms_in_training_and_nothing_else(name: str) -> None:
    model, plain = model_of(name, auxiliary={}), model_of(name)
    own = {key: value for key, value in model.state_dict().items() if "auxiliary." not in key}
    plain.load_state_dict(own)
    targets = some_targets()
    losses, fewer = (m.loss(m(images()), targets) for m in (model, plain))
    assert set(losses) == set(fewer) | {f"aux_{term}" for term in fewer}
    assert all(torch.equal(losses[term], fewer[term]) for term in fewer)
    assert all(losses[f"aux_{term}"] > 0 for term in fewer)
    model.auxiliary.options = sections.Auxiliary(weight=0.5)
    doubled = model.loss(model(images()), targets)
    for term in fewer:
        torch.testing.assert_close(doubled[f"aux_{term}"], 2 * losses[f"aux_{term}"])
    with torch.no_grad():
        outputs = model.eval()(images())
        wanted = plain.eval().decode(plain(images()), [CANVAS, CANVAS])
        found = model.decode(outputs, [CANVAS, CANVAS])
    assert outputs.auxiliary == ()
    assert set(model.loss(outputs, targets)) == set(fewer)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.boxes, b.boxes)


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
def test_equal_heads_with_the_same_samples_have_equal_losses(name: str) -> None:
    """One function for both: with the lead head's outputs and assignment in the place of its own,
    the auxiliary terms are the lead's."""
    model = model_of(name, auxiliary={"weight": 1.0}, iou_branch={})
    outputs = model(images())
    outputs = outputs._replace(auxiliary=(outputs._replace(auxiliary=()),))
    model.auxiliary.assign = lambda *_, fine, **__: fine
    losses = model.loss(outputs, some_targets())
    assert {"iou", "aux_iou"} < set(losses)
    for term in [term for term in losses if not term.startswith("aux_")]:
        assert torch.equal(losses[term], losses[f"aux_{term}"])


EVERYTHING = {
    "iou_branch": {"weight": 1.0, "alpha": 0.5},
    "density_branch": {"weight": 1.0},
    "box_loss": {"name": "kl"},
    "auxiliary": {"weight": 0.25, "relax": 2.0, "topk": 20},
    "enlarge_small": {"max_side_px": 16.0, "factor": 1.5},
}


BATCHES = {
    "some": some_targets(),
    "none": [target([], [], CANVAS), target([], [], (64, 64))],
    "tiny": [target([[9, 9, 15, 15], [40, 8, 41, 9]], [2, 1], CANVAS), target([], [], CANVAS)],
}


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
def test_everything_together_is_finite_and_reaches_every_parameter(name: str) -> None:
    """On a batch without objects too: distributed training waits for every parameter."""
    model = model_of(name, **EVERYTHING, class_loss={"name": "varifocal"})
    learn_by(model, replace(criterion_of(model), class_weights=(0.5, 1.0, 2.0)))
    outputs = model(images())
    parameters = dict(model.named_parameters())
    for targets in BATCHES.values():
        losses = model.loss(outputs, targets)
        assert {"iou", "density", "aux_class", "aux_box", "aux_iou", "aux_density"} < set(losses)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        grads = torch.autograd.grad(
            sum(losses.values()), list(parameters.values()), retain_graph=True
        )  # raises for a parameter that no term reaches
        assert all(grad.isfinite().all() for grad in grads)
    with torch.no_grad():
        found = model.eval().decode(model(images()), [CANVAS, (64, 64)])
    assert all(set(candidates.extra) == {"iou", "sigma", "density"} for candidates in found)


@pytest.mark.parametrize(("name", "box"), [("fcos", [5.0, 5, 11, 11]), ("atss", [9.0, 9, 15, 15])])
def test_an_object_between_all_points_is_learned_when_enlarged(name: str, box: list[float]) -> None:
    """Points of stride 8 begin at 4 (FCOS) and 0 (ATSS)."""
    model = model_of(name, enlarge_small={"max_side_px": 16.0, "factor": 2.0})
    outputs, targets = model(images()[:1]), [target([box], [0], CANVAS)]
    enlarged = model.loss(outputs, targets)
    criterion = criterion_of(model)
    learn_by(model, replace(criterion, assigner=criterion.assigner.assigner))
    plain = model.loss(outputs, targets)
    assert plain["box"] == plain["centerness"] == 0
    assert enlarged["box"] > 0
    assert enlarged["centerness"] > 0


def test_both_start_fresh_on_weights_of_a_plain_detector() -> None:
    plain, model = model_of("atss"), model_of("atss", **EVERYTHING)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    said: list[str] = []
    names = ["a", "b", "c"]
    content = {"kind": "weights", "class_names": names, "model": plain.state_dict()}
    load_weights(model, content, said.append)
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())
    assert said[0].startswith(f"weights: {len(plain.state_dict())} tensors loaded")
    assert ": head.iou." in said[0]


@pytest.mark.parametrize("name", BRANCHED_DETECTORS)
def test_the_box_target_of_an_enlarged_object_is_its_true_box(name: str) -> None:
    """The box term vanishes where the true box is predicted, whatever the assignment saw."""
    model = model_of(name, enlarge_small={"max_side_px": 32.0, "factor": 2.0})
    targets = [target([[42, 22, 54, 34]], [0], CANVAS)]
    outputs = model(images()[:1])
    priors = model.priors(outputs.boxes, CANVAS)
    seen = criterion_of(model).assigner
    enlarged, plain = (
        assign_batch(rule, priors, targets, padding="seen") for rule in (seen, seen.assigner)
    )
    assert (enlarged >= 0).any()
    assert not torch.equal(enlarged, plain)
    box = torch.tensor([[42.0, 22, 54, 34]]).expand(len(priors), 4)
    encoded = model.coder.encode(box, priors)
    cells = [level.shape[-2:] for level in outputs.boxes]
    anchors = outputs.boxes[0].shape[1] // 4
    parts = encoded.split([anchors * height * width for height, width in cells])
    boxes = tuple(
        part.view(1, *size, anchors * 4).permute(0, 3, 1, 2)
        for part, size in zip(parts, cells, strict=True)
    )
    assert model.loss(outputs._replace(boxes=boxes), targets)["box"] < 1e-4
