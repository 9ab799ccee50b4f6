"""Names on one line, and the name that was meant."""

import pytest

from detcli.text import did_you_mean, nearest, one_line

NAMES = ("iou_threshold", "max_per_image", "sigma", "method")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("iou_treshold", "iou_threshold"), ("sgima", "sigma"), ("colour", None), ("", None)],
)
def test_the_nearest_name_is_found(typed, meant):
    assert nearest(typed, NAMES) == meant


def test_the_end_of_a_message_names_it_or_is_empty():
    assert did_you_mean("methd", NAMES) == "; did you mean method?"
    assert did_you_mean("colour", NAMES) == ""


def test_a_text_that_nobody_mistyped_is_not_compared():
    assert nearest("a" * 1_000_000, ["a" * 1_000_000]) is None


def test_names_of_unlike_length_are_not_compared_in_full(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "difflib.get_close_matches", lambda name, names, n: compared.extend(names) or []
    )
    nearest("sigma", ["x" * length for length in range(1, 5000)])
    assert len(compared) < 10


def test_control_characters_stay_on_the_line():
    assert one_line("a\nb\x1b[0m") == "a\\nb\\x1b[0m"
