"""`detcli export`: the weights of a run alone, and in the plain layers that they equal."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcli.engine.detect.load import Trained
from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_model
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import CheckpointError
from detcli.models.detector import Detector
from detcli.models.fuse import fuse
from detcli.recipe import Recipe, recipe_from_dict

TOLERANCE = 1e-4  # fraction of the largest raw output by which the exported detector may differ
CHECKED = 2  # random images that both detectors look at
TIMED = 5  # passes over one image whose middle one counts


@dataclass(frozen=True)
class Size:
    """What a detector costs: parameters, bytes of its checkpoint, milliseconds per image."""

    parameters: int
    file_bytes: int
    ms_per_image: float


@dataclass(frozen=True)
class Exported:
    """fused: names of the parts that became plain convolutions; difference: largest one of the
    raw outputs; shape: (height, width) of the images that were looked at."""

    path: Path
    fused: tuple[str, ...]
    difference: float
    shape: tuple[int, int]
    before: Size
    after: Size


def export(trained: Trained, out: Path, ranks: Ranks, log: RunLog) -> Exported:
    """Write a checkpoint with the weights for inference only, fused, and the recipe of the
    network that they fit.

    Raises CheckpointError when `out` exists, or when the two detectors do not agree.
    """
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name another file with --out")
    recipe = plain_recipe(trained.recipe, str(trained.path))
    before = trained.detector
    after, fused = plain_detector(before, recipe, len(trained.class_names))
    after.to(ranks.device).eval()
    shape = evaluation_shape(recipe)
    passes = CHECKED * 2 + (1 + TIMED) * 2
    with log.bar("export: check and time", passes, unit="images") as advance:
        difference = largest_difference(before, after, shape, advance)
        if not difference <= TOLERANCE:  # not >: NaN is refused, too
            raise CheckpointError(
                f"{trained.path}: the fused detector differs by {difference:.1e} of its largest "
                f"raw output, expected at most {TOLERANCE:.0e}; nothing was written"
            )
        times = [ms_per_image(model, shape, ranks.device, advance) for model in (before, after)]
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        out,
        {
            "kind": "weights",
            "recipe": recipe.model_dump(mode="json"),
            "class_names": list(trained.class_names),
            "category_ids": list(trained.category_ids),
            "model": {name: value.cpu() for name, value in after.state_dict().items()},
        },
    )
    sizes = [
        Size(sum(p.numel() for p in model.parameters()), path.stat().st_size, milliseconds)
        for model, path, milliseconds in zip(
            (before, after), (checkpoint.find(trained.path), out), times, strict=True
        )
    ]
    return Exported(out, tuple(fused), difference, shape, *sizes)


def plain_recipe(recipe: Recipe, where: str) -> Recipe:
    """The recipe of the network that remains when everything is fused and what helps in training
    only is gone."""
    values = recipe.model_dump()
    model = values["model"]
    for part in (model.get("neck", {}), model.get("head", {})):
        if part.get("conv") == "rep":
            part["conv"] = "plain"
        if part.get("implicit"):
            part["implicit"] = False
    if model.get("auxiliary"):
        model["auxiliary"] = None
    return recipe_from_dict(values, where)


def plain_detector(
    detector: Detector, recipe: Recipe, num_classes: int
) -> tuple[Detector, list[str]]:
    """The network of a plain recipe with the fused weights of `detector`; what was fused."""
    original = copy.deepcopy(detector)
    fused = fuse(original)
    plain = build_model(recipe, num_classes, pretrained=False)
    weights = original.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain, fused


def evaluation_shape(recipe: Recipe) -> tuple[int, int]:
    """The padded (height, width) of the widest image that evaluation makes."""
    data = recipe.data
    short = data.resize.evaluated_short
    return data.padded(short), data.padded(data.resize.long if data.resize.keep_aspect else short)


@torch.no_grad()
def largest_difference(
    before: nn.Module, after: nn.Module, shape: tuple[int, int], advance: Callable[[int], None]
) -> float:
    """Of the raw outputs for random images, as a fraction of the largest value of the same output
    (at least 1)."""
    generator = torch.Generator().manual_seed(0)
    device = next(before.parameters()).device
    differences = []
    # TensorFloat-32 would differ by 1e-3 by itself.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for _ in range(CHECKED):
            image = torch.randn(1, 3, *shape, generator=generator).to(device)
            seen = []
            for model in (before, after):
                outputs = model(image)
                # after its proposals, among which the last bit can choose, it is not comparable
                seen.append(list(tensors(getattr(outputs, "first", outputs))))
                advance(1)
            for a, b in zip(*seen, strict=True):
                differences.append((a - b).abs().max() / a.abs().max().clamp(min=1))
    return torch.stack(differences).max().item()


def tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples, in order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, tuple):
        for part in outputs:
            yield from tensors(part)


@torch.no_grad()
def ms_per_image(
    model: nn.Module, shape: tuple[int, int], device: torch.device, advance: Callable[[int], None]
) -> float:
    """Middle time of several passes over one image, after one that does not count."""
    image = torch.randn(1, 3, *shape, device=device)
    times = []
    for _ in range(1 + TIMED):
        started = time.perf_counter()
        model(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) * 1000)
        advance(1)
    return statistics.median(times[1:])


HEADER = ("", "parameters (M)", "file (MB)", "ms per image")


def table_rows(done: Exported) -> list[list[str]]:
    """One row of text for the run and one for the exported file, columns as in HEADER."""
    return [
        [
            name,
            f"{size.parameters / 1e6:.3f}",
            f"{size.file_bytes / 1e6:.1f}",
            f"{size.ms_per_image:.1f}",
        ]
        for name, size in (("run", done.before), ("exported", done.after))
    ]


def to_json(done: Exported) -> dict[str, Any]:
    """The document of `export --json`."""
    return {
        "checkpoint": str(done.path),
        "fused": list(done.fused),
        "largest_difference": done.difference,
        "image": list(done.shape),
        "before": asdict(done.before),
        "after": asdict(done.after),
    }
