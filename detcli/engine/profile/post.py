"""What becomes of a network's outputs: candidates per image, and what each suppression method
takes to thin them out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detcli.engine.compare.nms_compare import NMS, MethodResult, run_methods
from detcli.engine.detect.evaluate import to_original
from detcli.engine.profile.network import Case, Network, build_network
from detcli.engine.profile.timing import timed
from detcli.engine.run.batch import network_input
from detcli.engine.run.build import build_eval_loader, read_split
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.engine.run.methods import MethodSpec, own_options, possible_methods, shared_options
from detcli.errors import DataError
from detcli.postprocess import METHODS
from detcli.recipe import Recipe, override_recipe
from detcli.types import Detections

FEWEST, MOST = 2, 16  # images


@dataclass(frozen=True)
class PostProfile:
    """Candidates of a few images of the evaluation split, and the methods' times.

    lifted: the score threshold was set to 0, because random weights score nothing above it;
    candidates: of every image; decode_ms: from outputs to candidates, for every image; results:
    the recipe's method first; impossible: methods that need a column that the network lacks.
    """

    lifted: bool
    candidates: tuple[int, ...]
    decode_ms: tuple[float, ...]
    results: tuple[MethodResult, ...]
    impossible: tuple[str, ...]

    @property
    def nms_ms(self) -> float:
        """Of one image: the unit of the others."""
        return next(row.ms_per_image for row in self.results if row.spec.name == NMS)


def measure_posts(
    cases: Sequence[Case], ranks: Ranks, log: RunLog, *, seconds: float
) -> list[PostProfile]:
    """Suppress the candidates of each recipe's network with every method, one method after the
    other and within it the recipes in turn.

    seconds: for the forward passes of one recipe. Raises DataError where images cannot be read.
    """
    starts = [_candidates(case, ranks, log, seconds) for case in cases]
    specs = [_specs(start, case.recipe) for start, case in zip(starts, cases, strict=True)]
    results: list[dict[str, MethodResult]] = [{} for _ in cases]
    for name in log.track(METHODS, "post", len(METHODS), unit="methods"):
        for case, start, possible, found in zip(cases, starts, specs, results, strict=True):
            if name in possible:
                found[name] = _run(possible[name], start.table, case.recipe)
    return [
        PostProfile(
            lifted=start.lifted,
            candidates=tuple(np.diff(start.table.offsets).tolist()),
            decode_ms=tuple(start.decode_ms),
            results=tuple(found[name] for name in possible),
            impossible=tuple(name for name in METHODS if name not in possible),
        )
        for start, possible, found in zip(starts, specs, results, strict=True)
    ]


@dataclass(frozen=True)
class _Start:
    """Candidates before suppression, and how they came about."""

    table: Detections
    lifted: bool
    decode_ms: list[float]


def _candidates(case: Case, ranks: Ranks, log: RunLog, seconds: float) -> _Start:
    """The candidates of some images of the evaluation split."""
    changes = ["data.workers=0"]
    lifted = case.weights is None and hasattr(case.recipe.model, "score_threshold")
    if lifted:
        changes.append("model.score_threshold=0.0")
    recipe = override_recipe(case.recipe, changes, case.recipe.name)
    network = build_network(replace(case, recipe=recipe), None, ranks, log)
    records = read_split(recipe, recipe.eval.split, case.class_names)
    if len(records) == 0:
        raise DataError(f"{recipe.data.root}: the {recipe.eval.split} split has no images")
    records = records.take(np.unique(np.linspace(0, len(records) - 1, MOST).astype(np.int64)))
    loader = build_eval_loader(recipe, records, ranks, batch_per_rank=1)
    tables: list[Detections] = []
    decode_ms: list[float] = []
    ends = time.perf_counter() + seconds
    for batch in log.track(loader.start(0), "post, candidates", len(loader), unit="images"):
        images, targets = network_input(recipe, batch, ranks.device)
        size = targets[0].size
        candidates, milliseconds = _decoded(network, images, size)
        tables.append(to_original(candidates, size, records.size(batch.indices[0])))
        decode_ms.append(milliseconds)
        if len(tables) >= FEWEST and time.perf_counter() > ends:
            break
    return _Start(Detections.join(tables), lifted, decode_ms)


def _decoded(network: Network, images: Any, size: tuple[int, int]) -> tuple[Any, float]:
    """The candidates of one image, and the milliseconds from the outputs to them."""
    outputs = network.forward(images, [size])
    decoded: list[Any] = []
    milliseconds = timed(
        lambda: decoded.extend(network.detector.decode(outputs, [size])), network.device
    )
    return decoded[0], milliseconds


def _specs(start: _Start, recipe: Recipe) -> dict[str, MethodSpec]:
    """Every method that these candidates allow: the recipe's first and with its options, the
    others with their usual ones."""
    first = MethodSpec(recipe.postprocess.method, own_options(recipe.postprocess.model_dump()))
    others = [name for name in possible_methods(start.table.extra) if name != first.name]
    return {first.name: first} | {name: MethodSpec(name) for name in others}


def _run(spec: MethodSpec, candidates: Detections, recipe: Recipe) -> MethodResult:
    spec = spec.among(**shared_options(recipe.postprocess))
    (result,) = run_methods(candidates, [spec], RunLog(quiet=True))
    return result
