"""From the sections of a recipe to the parts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from detcli.data.cache import ImageCache
from detcli.data.dataset import DetectionDataset
from detcli.data.formats.read import read_records
from detcli.data.loader import Loader, build_loader
from detcli.data.records import Records
from detcli.data.transforms import Pipeline, build_transforms
from detcli.data.windows import WindowDataset, Windows
from detcli.engine.run.distributed import Ranks
from detcli.models import build_detector
from detcli.recipe import Recipe


def read_split(recipe: Recipe, split: str, classes: tuple[str, ...] | None = None) -> Records:
    """The annotations of one split; `classes` (a checkpoint's) override the recipe's."""
    data = recipe.data
    chosen = getattr(data, split)
    return read_records(
        format=data.format,
        root=data.root,
        split=None if chosen is None else chosen.model_dump(),
        name=split,
        classes=classes or data.classes,
        on_error=data.on_error,
        class_file=data.class_file,
        shapes=None if data.shapes is None else data.shapes.model_dump(),
    )


def build_train_loader(
    recipe: Recipe, records: Records, ranks: Ranks, cache: ImageCache | None = None
) -> Loader:
    """Shuffled, augmented batches of this rank."""
    return _loader(recipe, _dataset(recipe, records, cache, train=True), ranks, train=True)


def build_eval_loader(
    recipe: Recipe,
    records: Records,
    ranks: Ranks,
    batch_per_rank: int | None = None,
    cache: ImageCache | None = None,
) -> Loader:
    """Batches of this rank's share in order, resized only."""
    dataset = _dataset(recipe, records, cache, train=False)
    return _loader(recipe, dataset, ranks, train=False, batch_per_rank=batch_per_rank)


def build_window_loader(recipe: Recipe, records: Records, windows: Windows, ranks: Ranks) -> Loader:
    """Windows of the images in place of the images, each resized like an image."""
    dataset = WindowDataset(records, windows, _transforms(recipe, train=False))
    return _loader(recipe, dataset, ranks, train=False)


def _dataset(
    recipe: Recipe, records: Records, cache: ImageCache | None, *, train: bool
) -> DetectionDataset:
    return DetectionDataset(
        records, _transforms(recipe, train=train), seed=recipe.train.seed, cache=cache
    )


def _transforms(recipe: Recipe, *, train: bool) -> Pipeline:
    data = recipe.data
    return build_transforms(
        resize=data.resize.model_dump(), augment=data.augment.model_dump(), train=train
    )


def _loader(
    recipe: Recipe,
    dataset: DetectionDataset,
    ranks: Ranks,
    *,
    train: bool,
    batch_per_rank: int | None = None,
) -> Loader:
    data = recipe.data
    default = data.batch_per_rank if train else recipe.eval.batch_per_rank
    return build_loader(
        dataset,
        data,
        batch_per_rank=batch_per_rank or default,
        shuffle=train,
        pin_memory=data.pin_memory and ranks.device.type == "cuda",
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=recipe.train.seed,
    )


def build_model(
    recipe: Recipe,
    num_classes: int,
    *,
    pretrained: bool = True,
    class_weights: Sequence[float] | None = None,
) -> nn.Module:
    """The detector of a recipe.

    pretrained=False leaves out the backbone's public weights, where a checkpoint follows anyway.
    class_weights: what became of the recipe's on the training split; only a loss needs them.
    """
    keywords: dict[str, Any] = recipe.model.model_dump()
    if "class_weights" in keywords.get("class_loss", {}):
        keywords["class_loss"]["class_weights"] = class_weights
    if not pretrained:
        keywords["backbone"]["weights"] = None
    return build_detector(keywords.pop("name"), num_classes=num_classes, **keywords)
