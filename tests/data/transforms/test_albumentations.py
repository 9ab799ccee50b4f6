"""The bridge to albumentations; most of it needs the library, which is an extra."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from detcli.data.transforms import build_transforms
from detcli.errors import UsageError
from tests.data.transforms.augmenting import painted, seeded

RESIZE: dict[str, Any] = {"short": [40], "long": 80, "pick": "choice", "eval_short": None}


def albumentations_of(*transforms: dict[str, Any]) -> Any:
    augment = {"albumentations": {"transforms": transforms}}
    return build_transforms(resize=RESIZE, augment=augment, train=True).steps[0]


def test_without_albumentations_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UsageError, match=r"pip install 'detcli\[albumentations\]'"):
        albumentations_of({"name": "HorizontalFlip"})


def test_albumentations_move_boxes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")
    sample = painted((40, 60), [[5, 5, 25, 20], [30, 10, 50, 35]], [False, True])
    flip = albumentations_of({"name": "HorizontalFlip", "p": 1.0})
    out = seeded(0, flip, sample)
    assert torch.allclose(out.boxes, torch.tensor([[35.0, 5, 55, 20], [10, 10, 30, 35]]), atol=1e-3)
    assert torch.equal(out.image, sample.image.flip(2))
    assert out.ignore.tolist() == [False, True]
    assert out.fired == ("albumentations",)
    half = albumentations_of({"name": "HorizontalFlip", "p": 0.5})
    twice = [[len(seeded(seed, half, sample).fired) for seed in range(60)] for _ in range(2)]
    assert twice[0] == twice[1]  # seeded from torch's generator
    assert 15 < sum(twice[0]) < 45
    crop = albumentations_of({"name": "Crop", "x_max": 28, "y_max": 40, "p": 1.0})
    assert seeded(0, crop, sample).labels.tolist() == [0]
    assert seeded(0, crop, painted((40, 60), [], [])).boxes.shape == (0, 4)


def test_albumentations_draw_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a seed of its own each, two flips of the same probability would always cancel."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")
    sample = painted((40, 60), [[5, 5, 25, 20]], [False])
    flip = {"name": "HorizontalFlip", "p": 0.5}
    both = albumentations_of(flip, flip)
    assert 15 < sum(len(seeded(seed, both, sample).fired) for seed in range(60)) < 45


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"name": "HorizontalFlipp"}, "did you mean HorizontalFlip?"),
        ({"name": "Compose"}, "has no transform 'Compose'"),
        ({"name": "GaussianBlur", "blur": 3}, "GaussianBlur: Argument.* 'blur'"),
        ({"name": "GaussianBlur", "sigma_limit": "x"}, "GaussianBlur: "),
    ],
)
def test_mistakes_in_albumentations_are_one_line(
    entry: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")
    with pytest.raises(UsageError, match=reason) as caught:
        albumentations_of(entry)
    assert len(str(caught.value).splitlines()) == 1
