import pytest

from detcli.engine.train.learning_rate import effective_learning_rate
from detcli.recipe.sections.optim import Optim


def rate(**changes):
    options = {key: changes.pop(key) for key in list(changes) if key.startswith("lr")}
    values = {"batch_per_rank": 2, "world_size": 1, "accumulate": 1, "explicit": False}
    return effective_learning_rate(Optim(**options), **(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_per_rank": 2, "world_size": 8}, 0.01),
        ({"batch_per_rank": 4}, 0.0025),  # note 001: 0.0025 for 4 images per step
        ({"batch_per_rank": 2, "world_size": 4, "accumulate": 2}, 0.01),
        ({"batch_per_rank": 4, "lr_rule": "sqrt"}, 0.005),
        ({"batch_per_rank": 4, "lr_rule": "none"}, 0.01),
        ({"batch_per_rank": 4, "explicit": True}, 0.01),
    ],
)
def test_rule(changes, expected):
    assert rate(**changes).lr == pytest.approx(expected, rel=1e-12)


def test_note_001_table():
    # 8 GPUs x 2 images: 0.02; 2 GPUs x 2 or 4 x 1: 0.005; 4 GPUs x 2: 0.01
    base = {"lr": 0.02, "lr_batch": 16}
    assert rate(**base, world_size=8, batch_per_rank=2).lr == pytest.approx(0.02)
    assert rate(**base, world_size=2, batch_per_rank=2).lr == pytest.approx(0.005)
    assert rate(**base, world_size=4, batch_per_rank=1).lr == pytest.approx(0.005)
    assert rate(**base, world_size=4, batch_per_rank=2).lr == pytest.approx(0.01)


def test_sentence_names_base_batch_effective_batch_and_both_rates():
    sentence = rate(batch_per_rank=4).sentence
    for part in ("0.0025", "0.01", "16 images", "4 images", "linear", "per rank"):
        assert part in sentence


def test_explicit_value_says_so():
    assert "command line" in rate(explicit=True).sentence
