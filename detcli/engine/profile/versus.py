"""Two profiles side by side, figure by figure. Prints nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detcli.engine.profile.report import MIB, Table
from detcli.engine.profile.session import Comparison, Profile
from detcli.engine.profile.spread import Spread, paired_ratios

COLUMNS = ("figure", "A", "B", "B / A")
LOADING, STEP_TIME = "loading (images/s)", "step without data wait (ms)"


@dataclass(frozen=True)
class Figure:
    """One figure of both recipes, None where one of them lacks it. paired: the ratio with its
    quartiles, where both were measured in turn."""

    label: str
    first: float | None
    second: float | None
    paired: Spread | None

    @property
    def ratio(self) -> float | None:
        """Second over first."""
        if self.paired is not None:
            return self.paired.median
        if self.first is None or self.second is None or self.first == 0:
            return None
        return self.second / self.first


def figures(found: Comparison) -> list[Figure]:
    """Everything that both recipes were measured for, in the order of the parts."""
    first, second = _values(found.first), _values(found.second)
    paired = _paired(found)
    return [
        Figure(label, first.get(label), second.get(label), paired.get(label))
        for label in {**first, **second}
    ]


def versus_table(found: Comparison) -> Table:
    """A is the first recipe, B the second."""
    what = f"A: {found.first.recipe.name}, B: {found.second.recipe.name}"
    rows = [
        [each.label, _text(each.first), _text(each.second), _ratio_text(each)]
        for each in figures(found)
    ]
    return Table(what, COLUMNS, rows)


def ratios_json(found: Comparison) -> dict[str, Any]:
    """B / A of every figure by its label, with quartiles where both were measured in turn."""
    return {
        each.label: each.ratio if each.paired is None else each.paired.as_json()
        for each in figures(found)
    }


def _values(found: Profile) -> dict[str, float]:
    return dict(
        [*_model_values(found), *_loader_values(found), *_step_values(found), *_post_values(found)]
    )


def _model_values(found: Profile) -> Iterator[tuple[str, float]]:
    model = found.model
    if model is None:
        return
    yield "parameters (M)", model.cost.parameters / 1e6
    yield "trainable (M)", model.cost.trainable / 1e6
    yield "GMACs", model.cost.macs.total / 1e9
    yield "kept for backward (MiB/image)", model.kept / MIB
    yield "state (MB)", model.state_bytes / 1e6
    for latency in model.cost.latencies:
        yield _latency_label(latency.batch), statistics.median(latency.times_ms)


def _latency_label(batch: int) -> str:
    return f"forward pass, batch {batch} (ms)"


def _loader_values(found: Profile) -> Iterator[tuple[str, float]]:
    if found.loader is not None:
        yield LOADING, found.loader.current.images_per_s
        yield "loading as recommended (images/s)", found.loader.recommended.images_per_s


def _step_values(found: Profile) -> Iterator[tuple[str, float]]:
    step = found.step
    if step is None:
        return
    yield "training (images/s)", step.images_per_s
    total = sum(step.phases_ms.values())
    yield STEP_TIME, total * (1 - step.data_wait_share)
    for name, milliseconds in step.phases_ms.items():
        yield f"step: {name} (ms)", milliseconds
    yield "step: memory (GiB)", step.step_memory_gib


def _post_values(found: Profile) -> Iterator[tuple[str, float]]:
    post = found.post
    if post is None:
        return
    yield "candidates per image", statistics.mean(post.candidates)
    yield "decoding (ms)", statistics.median(post.decode_ms)
    for result in post.results:
        yield f"{result.spec.name} (ms/image)", result.ms_per_image


def _paired(found: Comparison) -> Mapping[str, Spread]:
    paired = {}
    if found.first.model is not None and found.second.model is not None:
        pairs = zip(
            found.first.model.cost.latencies, found.second.model.cost.latencies, strict=True
        )
        for first, second in pairs:
            ratio = paired_ratios(first.times_ms, second.times_ms)
            paired[_latency_label(first.batch)] = ratio
    if found.loader is not None:
        paired[LOADING] = found.loader
    if found.step is not None:
        paired[STEP_TIME] = found.step
    return paired


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _ratio_text(figure: Figure) -> str:
    if figure.paired is not None:
        return figure.paired.text(2)
    return "-" if figure.ratio is None else f"{figure.ratio:.2f}"
