"""Two profiles side by side, figure by figure. Prints nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detcli.engine.profile.report import MIB, Table
from detcli.engine.profile.session import Comparison, Profile
from detcli.engine.profile.timing import Spread, paired_ratios

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
        each.label: each.ratio if each.paired is None else asdict(each.paired)
        for each in figures(found)
    }


def _values(found: Profile) -> dict[str, float]:
    values: dict[str, float] = {}
    if (model := found.model) is not None:
        values |= {
            "parameters (M)": model.cost.parameters / 1e6,
            "trainable (M)": model.cost.trainable / 1e6,
            "GMACs": model.cost.macs.total / 1e9,
            "kept for backward (MiB/image)": model.kept / MIB,
            "state (MB)": model.state_bytes / 1e6,
        }
        for latency in model.cost.latencies:
            values[_latency_label(latency.batch)] = statistics.median(latency.times_ms)
    if (loader := found.loader) is not None:
        values[LOADING] = loader.current.images_per_s
        values["loading as recommended (images/s)"] = loader.recommended.images_per_s
    if (step := found.step) is not None:
        values["training (images/s)"] = step.images_per_s
        values[STEP_TIME] = sum(step.phases_ms.values()) * (1 - step.data_wait_share)
        values |= {f"step: {name} (ms)": value for name, value in step.phases_ms.items()}
        values["step: memory (GiB)"] = step.step_memory_gib
    if (post := found.post) is not None:
        values["candidates per image"] = statistics.mean(post.candidates)
        values["decoding (ms)"] = statistics.median(post.decode_ms)
        values |= {f"{row.spec.name} (ms/image)": row.ms_per_image for row in post.results}
    return values


def _latency_label(batch: int) -> str:
    return f"forward pass, batch {batch} (ms)"


def _paired(found: Comparison) -> Mapping[str, Spread]:
    paired = {}
    one, other = found.first.model, found.second.model
    if one is not None and other is not None:
        for first, second in zip(one.cost.latencies, other.cost.latencies, strict=True):
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
