"""What `detcli profile` does: one recipe, or two in turn, part by part."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detcli.engine.profile.loader import LoaderProfile, compare_loaders, measure_loader
from detcli.engine.profile.made_data import num_classes, with_data
from detcli.engine.profile.model import ModelProfile, measure_models
from detcli.engine.profile.network import Case, build_network
from detcli.engine.profile.post import PostProfile, measure_posts
from detcli.engine.profile.step import StepProfile, compare_steps, measure_step
from detcli.engine.profile.timing import Spread
from detcli.engine.run.build import read_split
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import DataError
from detcli.recipe import Recipe


@dataclass(frozen=True)
class Request:
    """What to measure. parts: of model, loader, step and post; batches: see `measure_models`; size:
    see `build_network`; seconds: for each setting that is timed; compile_too, trace: see
    `measure_step`; weights: see `Case`."""

    parts: tuple[str, ...]
    batches: tuple[int, ...]
    size: tuple[int, int] | None
    seconds: float
    compile_too: bool
    trace: Path | None
    weights: Path | None


@dataclass(frozen=True)
class Profile:
    """What was found about one recipe; parts that were not asked for are None."""

    recipe: Recipe
    model: ModelProfile | None
    loader: LoaderProfile | None
    step: StepProfile | None
    post: PostProfile | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two profiles, and what was taken of both in turn: the second recipe's images/s of loading
    and its time of a step over the first one's."""

    first: Profile
    second: Profile
    loader: Spread | None
    step: Spread | None


def profile(recipe: Recipe, request: Request, ranks: Ranks, log: RunLog) -> Profile:
    """Measure the parts of one recipe. Raises DataError, UsageError, CheckpointError."""
    with tempfile.TemporaryDirectory(prefix="detcli-profile-") as scratch:
        (found,) = _profiles([recipe], request, Path(scratch), ranks, log)[0]
        return found


def compare(
    first: Recipe, second: Recipe, request: Request, ranks: Ranks, log: RunLog
) -> Comparison:
    """Measure the same parts of two recipes. Raises what `profile` raises."""
    with tempfile.TemporaryDirectory(prefix="detcli-profile-") as scratch:
        (one, other), cases = _profiles([first, second], request, Path(scratch), ranks, log)
        left, right = (case.recipe for case in cases)
        seconds, loader, step = request.seconds, None, None
        if "loader" in request.parts:
            loader = compare_loaders(left, right, ranks, log, seconds=seconds)
        if "step" in request.parts:
            step = compare_steps(left, right, ranks, log, seconds=seconds)
        return Comparison(one, other, loader, step)


def _profiles(
    recipes: Sequence[Recipe], request: Request, scratch: Path, ranks: Ranks, log: RunLog
) -> tuple[list[Profile], list[Case]]:
    """The profile of each recipe, and the recipes as they were measured, with data."""
    notes: list[list[str]] = [[] for _ in recipes]
    tells = [functools.partial(_tell, log, said) for said in notes]
    cases = [
        _case(recipe, request, scratch / str(index), tell)
        for index, (recipe, tell) in enumerate(zip(recipes, tells, strict=True))
    ]
    asked, seconds, nothing = request.parts, request.seconds, [None] * len(cases)
    networks = [build_network(case, request.size, ranks, log) for case in cases if "model" in asked]
    models: Sequence[ModelProfile | None] = nothing
    if networks:
        models = measure_models(networks, log, batches=request.batches, seconds=seconds)
    posts = measure_posts(cases, ranks, log, seconds=seconds) if "post" in asked else nothing
    loaders = [
        measure_loader(case.recipe, ranks, log, seconds=seconds) if "loader" in asked else None
        for case in cases
    ]
    steps = [_step(case, request, ranks, log) if "step" in asked else None for case in cases]
    for tell, loader, step in zip(tells, loaders, steps, strict=True):
        for sentence in (*(loader.notes if loader else ()), *(step.warnings if step else ())):
            tell(sentence)
    columns = zip(recipes, models, loaders, steps, posts, map(tuple, notes), strict=True)
    return [Profile(*column) for column in columns], cases


def device_name(device: torch.device) -> str:
    """What the measurements were taken on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def _tell(log: RunLog, notes: list[str], sentence: str) -> None:
    """For the reader now, and for the document."""
    notes.append(sentence)
    log.say(sentence)


def _case(recipe: Recipe, request: Request, scratch: Path, say: Callable[[str], None]) -> Case:
    """The recipe with data to be measured on, and its classes. A network alone needs no data."""
    if set(request.parts) - {"model"}:
        recipe = with_data(recipe, scratch, say)
        return Case(recipe, read_split(recipe, "train").class_names, request.weights)
    try:
        names = read_split(recipe, "train").class_names
    except DataError as error:
        count = num_classes(recipe)
        say(f"{str(error).splitlines()[0]}; without it the network is built for {count} classes")
        names = tuple(f"class {index}" for index in range(count))
    return Case(recipe, names, request.weights)


def _step(case: Case, request: Request, ranks: Ranks, log: RunLog) -> StepProfile:
    return measure_step(
        case.recipe,
        ranks,
        log,
        seconds=request.seconds,
        compile_too=request.compile_too,
        trace=request.trace,
    )
