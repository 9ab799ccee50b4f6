"""A profile as tables of text and as plain values. Prints nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from detcli.engine.profile.loader import LoaderProfile
from detcli.engine.profile.model import Cost, ModelProfile, Part
from detcli.engine.profile.post import PostProfile
from detcli.engine.profile.session import Profile
from detcli.engine.profile.step import StepProfile
from detcli.engine.profile.timing import paired_ratios
from detcli.engine.profile.verdict import verdict

MIB = 2**20
SHOWN = 0.01  # fraction of the network's figures below which a child's child has no row
PART_HEADER = (
    "part",
    "parameters (M)",
    "trainable (M)",
    "GMACs",
    "share",
    "kept for backward (MiB/image)",
)
LATENCY_HEADER = (
    "network",
    "batch",
    "passes",
    "p50 (ms)",
    "p90 (ms)",
    "p99 (ms)",
    "images/s",
    "memory of a pass (MiB)",
    "time / plain",
)
SETTING_HEADER = ("", "workers", "pinned", "prefetch", "cache", "images/s", "rounds", "/ recipe")
VARIANT_HEADER = ("setting", "time of a step / base", "memory of a step", "")
POST_HEADER = ("method", "ms/image", "x nms", "boxes/image")
NOTED_HEADER = ("", "Mem (MB)", "task/s", "training memory (MiB)")


class Table(NamedTuple):
    """What a table on the screen needs."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(found: Profile, device: str) -> Iterator[Table]:
    """Every part that was measured, the model first."""
    if found.model is not None:
        yield from _model_tables(found.model, found.recipe.name, device)
        yield Table(f"columns as in published tables: {device}", NOTED_HEADER, [_noted_row(found)])
    if found.loader is not None:
        yield from _loader_tables(found.loader)
    if found.step is not None:
        yield from _step_tables(found.step)
    if found.post is not None:
        yield _post_table(found.post)


def noted_lines(found: Profile) -> Iterator[str]:
    """What others measured with this recipe, as it stands there."""
    for entry in found.recipe.expected:
        if entry.note is not None:
            yield f"{entry.source}: {entry.note}"


def to_json(found: Profile, device: str) -> dict[str, Any]:
    """The document of `profile --json`; parts that were not asked for are null."""
    return {
        "recipe": found.recipe.name,
        "device": device,
        "model": None if found.model is None else _model_json(found.model),
        "loader": None if found.loader is None else found.loader.as_json(),
        "step": None if found.step is None else asdict(found.step),
        "post": None if found.post is None else _post_json(found.post),
        "verdict": "\n".join(verdict(found)),
        "notes": list(found.notes),
        "noted_columns": _noted(found),
    }


def rate(value: float) -> str:
    """A figure that may lie far below or far above 1."""
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _model_tables(model: ModelProfile, name: str, device: str) -> Iterator[Table]:
    height, width = model.image
    what = f"{name}: {model.num_classes} classes, images of {height} x {width}"
    total = ("network", *_part_cells(model.cost, model.kept, model.cost))
    rows = [
        ("  " * part.depth + part.name, *_part_cells(part, part.kept, model.cost))
        for part in model.parts
        if _is_shown(part, model.cost)
    ]
    yield Table(what, PART_HEADER, [total, *rows])
    kinds = model.cost.macs.by_operation
    if len(kinds) > 1:
        shares = [(kind, f"{macs / 1e9:.3f}") for kind, macs in kinds.items()]
        yield Table("by kind of operation", ("operation", "GMACs"), shares)
    yield Table(f"forward pass: {device}, {model.precision}", LATENCY_HEADER, _latency_rows(model))


def _is_shown(part: Part, whole: Cost) -> bool:
    smallest = SHOWN if part.depth > 1 else 0.0
    return part.macs > smallest * whole.macs.total or part.parameters > smallest * whole.parameters


def _part_cells(part: Part | Cost, kept: int, whole: Cost) -> list[str]:
    macs = part.macs if isinstance(part, Part) else part.macs.total
    return [
        f"{part.parameters / 1e6:.3f}",
        f"{part.trainable / 1e6:.3f}",
        f"{macs / 1e9:.3f}",
        f"{macs / whole.macs.total:.1%}",
        f"{kept / MIB:.1f}",
    ]


def _latency_rows(model: ModelProfile) -> list[list[str]]:
    variants = [("plain", model.cost)]
    if model.fused is not None:
        variants.append((f"fused, {len(model.fused_names)} parts", model.fused))
    rows = []
    for name, cost in variants:
        for latency, plain in zip(cost.latencies, model.cost.latencies, strict=True):
            ratio = paired_ratios(plain.times_ms, latency.times_ms)
            rows.append(
                [
                    name,
                    str(latency.batch),
                    str(len(latency.times_ms)),
                    *(f"{value:.2f}" for value in latency.percentiles_ms.values()),
                    rate(latency.images_per_s),
                    f"{latency.memory_gib * 1024:.0f}",
                    "-" if cost is model.cost else ratio.text(2),
                ]
            )
    return rows


def _model_json(model: ModelProfile) -> dict[str, Any]:
    first = model.cost.latencies[0]
    return {
        "params_total": model.cost.parameters,
        "params_trainable": model.cost.trainable,
        "gmacs": model.cost.macs.total / 1e9,
        "latency_ms": first.percentiles_ms,
        "images_per_s": first.images_per_s,
        "image": list(model.image),
        "num_classes": model.num_classes,
        "precision": model.precision,
        "gmacs_by_operation": {
            kind: macs / 1e9 for kind, macs in model.cost.macs.by_operation.items()
        },
        "parts": [
            {
                "name": part.name,
                "params_total": part.parameters,
                "params_trainable": part.trainable,
                "gmacs": part.macs / 1e9,
                "kept_mib_per_image": part.kept / MIB,
            }
            for part in model.parts
        ],
        "kept_mib_per_image": model.kept / MIB,
        "state_mb": model.state_bytes / 1e6,
        "batches": _latencies_json(model.cost),
        "fused": None if model.fused is None else _fused_json(model, model.fused),
    }


def _latencies_json(cost: Cost) -> list[dict[str, Any]]:
    return [
        {
            "batch": latency.batch,
            "passes": len(latency.times_ms),
            "latency_ms": latency.percentiles_ms,
            "images_per_s": latency.images_per_s,
            "memory_gib": latency.memory_gib,
        }
        for latency in cost.latencies
    ]


def _fused_json(model: ModelProfile, fused: Cost) -> dict[str, Any]:
    ratios = [
        asdict(paired_ratios(plain.times_ms, latency.times_ms))
        for plain, latency in zip(model.cost.latencies, fused.latencies, strict=True)
    ]
    return {
        "params_total": fused.parameters,
        "gmacs": fused.macs.total / 1e9,
        "parts": list(model.fused_names),
        "batches": [
            {**values, "time_ratio": ratio}
            for values, ratio in zip(_latencies_json(fused), ratios, strict=True)
        ],
    }


def _noted(found: Profile) -> dict[str, float | None]:
    """The figures by the names that the notes give them, and the memory that training took."""
    model, step = found.model, found.step
    return {
        "Mem": None if model is None else model.state_bytes / 1e6,
        "task/s": None if model is None else model.cost.latencies[0].images_per_s,
        "training_mib": None if step is None else step.peak_memory_gib * 1024,
    }


def _noted_row(found: Profile) -> list[str]:
    cells = ["-" if value is None else rate(value) for value in _noted(found).values()]
    return ["here", *cells]


def _loader_tables(profile: LoaderProfile) -> Iterator[Table]:
    rows = [
        (
            each.factor,
            str(each.setting.workers),
            "yes" if each.setting.pin_memory else "no",
            str(each.setting.prefetch_factor) if each.setting.workers else "-",
            each.setting.cache,
            f"{each.images_per_s:.1f}",
            f"{each.low:.1f}-{each.high:.1f}",
            f"{each.images_per_s / profile.current.images_per_s:.2f}",
        )
        for each in profile.settings
    ]
    yield Table("loading", SETTING_HEADER, rows)
    header = ("part of a sample", "ms per image", "share")
    shares = _share_rows(profile.sample_ms, "sample", 3)
    yield Table("one image in the main process", header, shares)


def _step_tables(profile: StepProfile) -> Iterator[Table]:
    what = (
        f"step: batch {profile.batch}, {profile.steps} steps of {profile.step_ms.text(1)} ms, "
        f"{rate(profile.images_per_s)} images/s, peak memory {profile.peak_memory_gib:.2f} GiB"
    )
    yield Table(what, ("phase", "ms", "share"), _share_rows(profile.phases_ms, "step", 2))
    rows = [
        (
            row.name,
            "-" if row.ratio is None else row.ratio.text(2),
            "-" if row.step_memory_gib is None else f"{row.step_memory_gib:.3f} GiB",
            row.note or "",
        )
        for row in profile.variants
    ]
    yield Table("the same batches with other settings, interleaved", VARIANT_HEADER, rows)


def _share_rows(parts_ms: Mapping[str, float], whole: str, decimals: int) -> list[tuple[str, ...]]:
    """Each part with its share, and the whole that they add up to."""
    total = sum(parts_ms.values())
    rows = [*parts_ms.items(), (whole, total)]
    return [(name, f"{ms:.{decimals}f}", f"{ms / total:.1%}") for name, ms in rows]


def _post_table(post: PostProfile) -> Table:
    candidates = post.candidates
    what = (
        f"post-processing: {len(candidates)} images with {statistics.mean(candidates):.0f} "
        f"candidates each (at most {max(candidates)}), decoded in "
        f"{statistics.median(post.decode_ms):.2f} ms"
    )
    rows = [
        [
            result.spec.label,
            f"{result.ms_per_image:.3f}",
            f"{result.ms_per_image / post.nms_ms:.2f}",
            f"{result.boxes_per_image:.1f}",
        ]
        for result in post.results
    ]
    return Table(what, POST_HEADER, rows)


def _post_json(post: PostProfile) -> dict[str, Any]:
    return {
        "images": len(post.candidates),
        "candidates_per_image": statistics.mean(post.candidates),
        "most_candidates": max(post.candidates),
        "threshold_lifted": post.lifted,
        "decode_ms": statistics.median(post.decode_ms),
        "methods": [
            {
                "method": result.spec.name,
                "params": result.spec.params,
                "ms_per_image": result.ms_per_image,
                "relative_time": result.ms_per_image / post.nms_ms,
                "boxes_per_image": result.boxes_per_image,
            }
            for result in post.results
        ],
        "impossible": list(post.impossible),
    }
