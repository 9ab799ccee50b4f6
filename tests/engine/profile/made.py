"""Profiles with given figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from detcli.engine.compare.nms_compare import MethodResult
from detcli.engine.profile.loader import LoaderProfile
from detcli.engine.profile.macs import Macs
from detcli.engine.profile.model import Cost, Latency, ModelProfile, Part
from detcli.engine.profile.post import PostProfile
from detcli.engine.profile.session import Profile
from detcli.engine.profile.settings import Measured, Setting
from detcli.engine.profile.step import StepProfile
from detcli.engine.profile.timing import Spread
from detcli.engine.profile.variants import VariantRow
from detcli.engine.run.methods import MethodSpec
from detcli.recipe import recipe_from_dict
from detcli.types import Detections
from tests.recipes import TINY


def made_step(wait: float = 0.1, *variants: VariantRow) -> StepProfile:
    """A step of 100 ms and 2 images that waits for a share of it."""
    work = 1 - wait
    base = VariantRow("base", Spread(1, 1, 1), 0.5)
    return StepProfile(
        batch=2,
        images_per_s=20.0,
        step_ms=Spread(100.0, 95.0, 110.0),
        phases_ms={"data wait": 100 * wait, "forward": 30 * work, "backward": 70 * work},
        data_wait_share=wait,
        steps=10,
        peak_memory_gib=2.0,
        step_memory_gib=0.5,
        variants=[base, *variants],
        largest_batch=None,
        cudnn_benchmark=None,
        warnings=["a warning"],
    )


def made_loader(now: float, then: float, workers: int = 4) -> LoaderProfile:
    """Images per second as in the recipe, without workers, and as recommended."""
    settings = [Setting(count, False, 2, False, "none") for count in (0, workers)]
    current, recommended = (
        Measured(name, setting, rate, rate, rate)
        for name, setting, rate in zip(
            ("recipe", "recommended"), settings, (now, then), strict=True
        )
    )
    worth = then > now
    return LoaderProfile(
        settings=[current, recommended],
        current=current,
        recommended=recommended if worth else current,
        sample_ms={"decode": 9.0, "resize": 1.0},
        restart_ms={},
        images=8,
        seconds=1.0,
        notes=["a note"],
    )


def made_model(milliseconds: float = 10.0, fused: float | None = None) -> ModelProfile:
    """A network of two parts, three quarters of whose multiply-adds are in the head."""
    macs = Macs(4 * 10**9, {"backbone": 10**9, "head": 3 * 10**9}, {"convolution": 4 * 10**9})
    cost = Cost(100, 90, macs, (Latency(1, (milliseconds,) * 4, 0.1),))
    faster = None if fused is None else Cost(80, 80, macs, (Latency(1, (fused,) * 4, 0.1),))
    parts = (Part("backbone", 1, 40, 30, 10**9, 7), Part("head", 1, 60, 60, 3 * 10**9, 9))
    names = () if fused is None else ("head.a", "head.b")
    return ModelProfile((64, 96), 2, "float32", cost, parts, 20, 400, faster, names)


def made_post(milliseconds: float = 1.0, *, lifted: bool = True) -> PostProfile:
    """Two images; soft takes twice as long as nms, which is the recipe's."""
    one_image = np.zeros(2, np.int64)
    nothing = Detections(one_image, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    results = [
        MethodResult(MethodSpec(name), nothing, milliseconds * times)
        for name, times in (("nms", 1), ("soft", 2))
    ]
    return PostProfile(lifted, (10, 30), (3.0, 5.0), tuple(results), ("softer",))


def made(**parts: Any) -> Profile:
    """A profile with these parts only."""
    recipe = recipe_from_dict(TINY, "test")
    values = {"model": None, "loader": None, "step": None, "post": None, "notes": ()} | parts
    return Profile(recipe, **values)
