"""AutoAugment policies."""

from __future__ import annotations

import pytest

from detcli.data.transforms.policy import POLICIES, AutoAugment
from detcli.data.transforms.policy_ops import EACH_OBJECT, WHOLE_IMAGE
from tests.data.transforms.augmenting import painted, seeded
from tests.data.transforms.scenes import noise


def test_policies_name_operations_that_exist() -> None:
    names = {name for policy in POLICIES.values() for steps in policy for name, _, _ in steps}
    assert names == set(WHOLE_IMAGE) | set(EACH_OBJECT)
    assert {name: len(policy) for name, policy in POLICIES.items()} == {
        "v0": 5,
        "v1": 20,
        "v2": 15,
        "v3": 15,
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_act_and_count_only_when_they_acted(policy: str) -> None:
    sample = painted((40, 60), [[5, 5, 25, 20], [30, 10, 50, 35]], [False, True])
    sample = sample.changed(image=noise())
    outs = [seeded(seed, AutoAugment(policy), sample) for seed in range(60)]
    assert any(out.fired == ("auto_augment",) for out in outs)
    for out in outs:
        if not out.fired:
            assert out is sample


def test_policies_act_with_their_probability() -> None:
    sample = painted((40, 60), [[5, 5, 25, 20]], [False])
    augment = AutoAugment("v0")
    augment.policy = ((("translate_x", 0.3, 5),),)
    fired = [len(seeded(seed, augment, sample).fired) for seed in range(400)]
    assert 90 < sum(fired) < 150
