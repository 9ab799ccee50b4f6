"""What limits a recipe, from figures that are given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcli.engine.profile.timing import Spread
from detcli.engine.profile.variants import VariantRow
from detcli.engine.profile.verdict import verdict
from tests.engine.profile.made import made, made_loader, made_model, made_post, made_step


def test_waiting_is_said_with_what_would_help():
    # 20 images/s of which 60 % is waiting: 20 ms for each image's work. Workers that make 40 a
    # second leave 25 ms for each image.
    found = verdict(made(step=made_step(0.6), loader=made_loader(20.0, 40.0)))
    assert found == [
        "data-bound: the step waits 60% of the time for images; data.workers=4 would give "
        "2.0 times as many images a second"
    ]


def test_training_gets_no_faster_than_its_own_work():
    found = verdict(made(step=made_step(0.6), loader=made_loader(20.0, 4000.0)))
    assert found[0].endswith("would give 2.5 times as many images a second")  # 1 / (1 - 0.6)


def test_waiting_without_a_remedy():
    assert verdict(made(step=made_step(0.6))) == [
        "data-bound: the step waits 60% of the time for images"
    ]
    found = verdict(made(step=made_step(0.6), loader=made_loader(20.0, 20.0)))
    assert "no other setting of the loader that was tried is clearly faster" in found[0]


def test_work_is_said_with_its_longest_phases_and_what_is_faster():
    rows = [
        VariantRow("channels last", Spread(1.2, 1.1, 1.3), 0.5),
        VariantRow("compiled", None, None, "takes minutes: --compile"),
        VariantRow("bf16", Spread(0.5, 0.4, 0.6), 0.3),
        VariantRow("fp16", Spread(0.8, 0.5, 0.99), 0.3),  # not in three turns of four
    ]
    found = verdict(made(step=made_step(0.1, *rows), loader=made_loader(20.0, 40.0)))
    assert found == [
        "compute-bound: of a step of 100.0 ms, backward 63% and forward 27%; it waits 10% of the "
        "time for images",
        "bf16 would make the step 2.00 times as fast",
    ]


def test_loading_alone():
    assert verdict(made(loader=made_loader(20.0, 40.0))) == [
        "loading: 20.0 images/s as in the recipe; data.workers=4 would give 2.0 times as many"
    ]
    assert "clearly faster" in verdict(made(loader=made_loader(20.0, 20.0)))[0]


def test_inference():
    assert verdict(made(model=made_model(), post=made_post(10.0))) == [
        "network: 75% of 4 GMACs are in the head",
        "suppression (nms): 10.00 ms an image, 50% of network and suppression; random weights, so "
        "the maximum number of candidates",
    ]
    assert verdict(made(post=made_post(10.0, lifted=False))) == [
        "suppression (nms): 10.00 ms an image"
    ]


def test_fusing():
    found = verdict(made(model=made_model(10.0, fused=8.0)))
    assert found[1] == (
        "fused (`detcli export`), the network is 1.25 times as fast: 2 parts become plain "
        "convolutions"
    )


@given(st.floats(0, 0.99), st.floats(0.1, 1e4), st.floats(1, 100), st.sampled_from([1, 8]))
def test_a_promise_is_a_number_that_can_be(wait, now, times, workers):
    found = verdict(made(step=made_step(wait), loader=made_loader(now, now * times, workers)))
    assert found
    assert not any("nan" in sentence or "inf" in sentence for sentence in found)
    promised = [s for s in found if s.startswith("data-bound") and "would give" in s]
    for sentence in promised:
        gain = float(sentence.split("would give ")[1].split()[0])
        assert gain <= 1 / (1 - wait) + 0.06


@pytest.mark.parametrize("parts", [{}, {"model": made_model()}])
def test_only_what_was_measured_is_judged(parts):
    assert len(verdict(made(**parts))) == len(parts)
