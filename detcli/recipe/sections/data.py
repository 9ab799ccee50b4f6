"""The `data` section: where images and labels are, and what happens to them before the network."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from detcli.recipe.sections.augment import Augment
from detcli.recipe.sections.section import ABOVE_ZERO, Pixels, Section, Triple, Words, rule

# The keys of a split that each format reads: those of READERS in detcli/data/formats/read.py.
SPLIT_KEYS = {
    "coco": ("annotations", "images"),
    "voc": ("split",),
    "yolo": ("images", "labels"),
    "shapes": (),
}


class Split(Section):
    """One split; which keys it needs depends on data.format."""

    annotations: str | None = Field(None, description="coco: JSON file, relative to data.root")
    images: str | None = Field(None, description="coco, yolo: image folder, relative to data.root")
    labels: str | None = Field(None, description="yolo: label folder, relative to data.root")
    split: str | None = Field(None, description="voc: name of the image list in ImageSets/Main")


class Shapes(Section):
    """Synthetic data set (format shapes)."""

    variant: Literal["plain", "small", "crowded", "hard_negatives", "background"] = Field(
        "plain",
        description="Content: ordinary, small or crowded objects, more clutter, or no objects",
    )
    num_train: int = Field(300, gt=0, description="Number of training images")
    num_val: int = Field(60, gt=0, description="Number of validation images")
    size: Annotated[
        tuple[int, int],
        Field(strict=False),
        rule(lambda size: min(size) >= 32 and max(size) <= 2048, "32 to 2048 pixels"),
    ] = Field((128, 128), description="Height and width of each image in pixels")
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed of the images")


class Resize(Section):
    """Aspect-preserving resize by the short side, limited by the long side, or to squares."""

    short: Pixels = Field(
        (800,), description="Short sides in pixels; multi-scale training draws one"
    )
    long: int = Field(1333, gt=0, description="Maximum long side in pixels")
    keep_aspect: bool = Field(
        True, description="false: resize to a square of `short`, ignoring the aspect ratio (SSD)"
    )
    pick: Literal["choice", "range"] = Field(
        "choice", description="Draw one of `short`, or any integer between its two values"
    )
    eval_short: int | None = Field(
        None, gt=0, description="Short side in evaluation; null: the largest of `short`"
    )

    @property
    def evaluated_short(self) -> int:
        """Short side in pixels in evaluation."""
        return self.eval_short or max(self.short)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.pick == "range" and (len(self.short) != 2 or self.short[0] >= self.short[1]):
            two = "pick: range needs two numbers, the smaller first"
            yield "short", f"{two}, got {list(self.short)}"
        if not self.keep_aspect:
            if self.is_changed("long"):
                yield "long", "has no effect with keep_aspect false; remove it"
            return
        if self.long < max(self.short):
            yield "long", f"expected at least the short side {max(self.short)}, got {self.long}"
        if self.eval_short is not None and self.long < self.eval_short:
            yield "eval_short", f"expected at most long ({self.long}), got {self.eval_short}"


class Data(Section):
    """Data set, preprocessing, augmentation and data loader."""

    format: Literal["coco", "voc", "yolo", "shapes"] = Field(
        description="Annotation format; shapes is a synthetic data set, generated on first use"
    )
    root: str = Field(min_length=1, description="Data set folder, from the current folder")
    train: Split | None = Field(None, description="Training split")
    val: Split | None = Field(None, description="Validation split")
    test: Split | None = Field(None, description="Test split, used only with eval.split: test")
    class_file: str | None = Field(
        None, description="yolo: class names, one per line, or a data.yaml; relative to data.root"
    )
    shapes: Shapes | None = Field(None, description="Format shapes: settings of the synthetic data")
    classes: Words | None = Field(
        None, description="Names of the classes to keep, in this order; null: all of the data's"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="What to do about broken images or labels: fail, or skip them"
    )
    resize: Resize = Field(Resize(), description="Resizing to the network's input size")
    mean: Triple = Field(
        (123.675, 116.28, 103.53), description="Mean to subtract, 0..255, in `channels` order"
    )
    std: Annotated[Triple, ABOVE_ZERO] = Field(
        (58.395, 57.12, 57.375), description="Normalisation standard deviation"
    )
    channels: Literal["rgb", "bgr"] = Field("rgb", description="Channel order of the input")
    pad_multiple: int = Field(32, gt=0, description="Batches are padded to a multiple of this")
    augment: Augment = Field(Augment(), description="Data augmentation in training")
    batch_per_rank: int = Field(2, gt=0, description="Training batch size per GPU (rank)")
    workers: int = Field(2, ge=0, description="Data loader workers per rank; 0: in the process")
    pin_memory: bool = Field(True, description="Pinned memory of batches; acts on CUDA only")
    prefetch_factor: int = Field(2, gt=0, description="Batches prefetched per worker")
    persistent_workers: bool = Field(True, description="Keep the workers alive between epochs")
    cache: Literal["none", "ram"] = Field(
        "none", description="ram: cache decoded training and evaluation images in memory"
    )
    group_by_aspect: bool = Field(
        True, description="Aspect-ratio grouping: batches are all portrait or all landscape"
    )

    def padded(self, side: int) -> int:
        """A side of images in pixels as the network sees it."""
        return math.ceil(side / self.pad_multiple) * self.pad_multiple

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.is_changed("prefetch_factor") and self.workers == 0:
            yield "prefetch_factor", "acts only with workers of 1 or more, but workers is 0"
        yield from self._class_problems()
        if self.format == "shapes":
            if self.shapes is None:
                yield "shapes", "format shapes needs it, for example {variant: plain}"
        elif self.shapes is not None:
            yield "shapes", f"acts only with format shapes, but format is {self.format}; remove it"
        if self.class_file is not None and self.format != "yolo":
            yield "class_file", f"acts only with format yolo, but format is {self.format}"
        for name in ("train", "val", "test"):
            yield from self._split_problems(name, getattr(self, name))

    def _class_problems(self) -> Iterator[tuple[str, str]]:
        if self.classes is None:
            return
        if not self.classes:
            yield "classes", "expected at least one class name, or null for all"
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            yield "classes", f"each name once, but {', '.join(map(repr, repeated))} is repeated"

    def _split_problems(self, name: str, split: Split | None) -> Iterator[tuple[str, str]]:
        needed = SPLIT_KEYS[self.format]
        if split is None:
            if needed and name != "test":
                yield name, f"format {self.format} needs it, with {' and '.join(needed)}"
            return
        for key in Split.model_fields:
            value = getattr(split, key)
            if key in needed and value is None:
                yield f"{name}.{key}", f"format {self.format} needs it"
            if key not in needed and value is not None:
                reads = f"it reads {' and '.join(needed)}" if needed else "splits are generated"
                yield f"{name}.{key}", f"format {self.format} does not read it; {reads}"
