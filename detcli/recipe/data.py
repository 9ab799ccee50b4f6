"""The `data` section: where images and labels are, and what happens to them before the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from detcli.recipe.section import Integers, Pair, Probability, Section, Triple, Words

# The keys of a split that each format reads.
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
    labels: str | None = Field(None, description="yolo: folder of txt files, relative to data.root")
    split: str | None = Field(None, description="voc: name of the list in ImageSets/Main")


class Shapes(Section):
    """The generated data set (format shapes)."""

    variant: Literal["plain", "small", "crowded", "hard_negatives"] = Field(
        "plain", description="What is drawn: ordinary, small or crowded objects, or more clutter"
    )
    num_train: int = Field(300, gt=0, description="Number of training images")
    num_val: int = Field(60, gt=0, description="Number of validation images")
    size: Annotated[tuple[int, int], Field(strict=False)] = Field(
        (128, 128), description="Height and width of each image in pixels"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="The same seed gives the same images")

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.size) < 32 or max(self.size) > 2048:
            yield "size", f"expected 32 to 2048 pixels, got {list(self.size)}"


class Resize(Section):
    """Aspect-preserving resize by the short side, limited by the long side."""

    short: Integers = Field(
        (800,), min_length=1, description="Short sides in pixels; training picks one per image"
    )
    long: int = Field(1333, gt=0, description="The long side never exceeds this many pixels")
    pick: Literal["choice", "range"] = Field(
        "choice", description="Draw one of `short`, or any integer between its two numbers"
    )
    eval_short: int | None = Field(
        None, gt=0, description="Short side in evaluation; null: the largest of `short`"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.short) <= 0:
            yield "short", f"expected pixels greater than 0, got {list(self.short)}"
        if self.pick == "range" and (len(self.short) != 2 or self.short[0] >= self.short[1]):
            yield (
                "short",
                f"pick: range needs two numbers, the smaller first, got {list(self.short)}",
            )
        if self.long < max(self.short):
            yield "long", f"expected at least the short side {max(self.short)}, got {self.long}"
        if self.eval_short is not None and self.long < self.eval_short:
            yield "eval_short", f"expected at most long ({self.long}), got {self.eval_short}"


class Flip(Section):
    """Mirror images of a training image."""

    horizontal: Probability = Field(0.5, description="Probability of a left-right flip")
    vertical: Probability = Field(0.0, description="Probability of an up-down flip")


class Photometric(Section):
    """Random brightness, contrast, saturation and hue (SSD, Liu et al. 2016)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")


class ZoomOut(Section):
    """The image on a larger canvas, so that its objects become small (SSD)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    max_scale: float = Field(4.0, gt=1, description="Largest side of the canvas, in image sides")


class IouCrop(Section):
    """A random crop that keeps a minimum IoU with some object (SSD)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")


class Crop(Section):
    """A random crop that holds all objects, or a drawn one, whole."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    min_side: float = Field(
        0.4, gt=0, lt=1, description="Shortest side of the crop, as a share of the image's"
    )
    keep: Literal["all", "one"] = Field(
        "one", description="What stays whole: every object, or one drawn object, tiny ones alike"
    )


class ColourJitter(Section):
    """Brightness, contrast, saturation and hue, all four, in a random order."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    brightness: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    contrast: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    saturation: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    hue: float = Field(
        0.1, ge=0, le=0.5, description="Largest shift either way, in turns of the colour circle"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            yield "brightness", "brightness, contrast, saturation and hue are all 0: nothing acts"


class Blur(Section):
    """Gaussian blur."""

    prob: Probability = Field(0.3, description="Probability that an image is changed")
    sigma: Pair = Field((0.3, 2.0), description="Range of the width, in pixels of the stored image")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _not_a_range("sigma", self.sigma, 0.05, 50)


class Cutout(Section):
    """Squares of mean colour at random places (DeVries and Taylor 2017)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    num: int = Field(1, gt=0, le=100, description="Squares per image")
    side: float = Field(0.25, gt=0, le=1, description="Side of each, in shorter sides of the image")


class Mosaic(Section):
    """Four images in one (YOLOv4, Bochkovskiy et al. 2020)."""

    prob: Probability = Field(0.5, description="Probability that an image becomes one of four")
    scale: Pair = Field(
        (0.5, 1.0), description="Range of the images' sizes; 1: the image fits the whole canvas"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _not_a_range("scale", self.scale, 0.05, 4)


class Mixup(Section):
    """A blend with another image, objects of both (Zhang et al. 2019)."""

    prob: Probability = Field(0.3, description="Probability that an image is blended")
    alpha: float = Field(1.5, gt=0, description="Shares are drawn from Beta(alpha, alpha)")


class CopyPaste(Section):
    """Copies of small objects at free places (Kisantal et al. 2019)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    max_side_px: float = Field(
        32.0, gt=0, description="Small: a box area below its square, in pixels of the stored image"
    )
    copies: int = Field(3, gt=0, le=100, description="Copies per image at most")


class Oversample(Section):
    """Images with small objects several times per epoch (Kisantal et al. 2019)."""

    ratio: int = Field(3, ge=2, le=20, description="How often an epoch shows each of these images")
    max_side_px: float = Field(
        32.0, gt=0, description="Small: a box area below its square, in pixels of the stored image"
    )


class Chips(Section):
    """A square window in place of the image, for objects of a range of sizes (SNIPER)."""

    sides_px: Integers = Field(
        (256, 512), min_length=1, description="Sides of chips, in pixels of the stored image"
    )
    valid: Pair = Field(
        (0.02, 0.5), description="Sizes (root of the area) that are learned, in sides of the chip"
    )
    negative: Probability = Field(0.1, description="Share of images that give an empty chip")

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.sides_px) < 16:
            yield "sides_px", f"expected at least 16 pixels, got {list(self.sides_px)}"
        yield from _not_a_range("valid", self.valid, 0, 1)


class AutoAugment(Section):
    """A learned policy of geometric and colour operations (Zoph et al. 2019)."""

    policy: Literal["v0", "v1", "v2", "v3"] = Field(
        "v0", description="Which of the published policies; v0 is the paper's"
    )


class Albumentations(Section):
    """Transforms of the albumentations library: pip install 'detcli[albumentations]'."""

    transforms: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)] = Field(
        description="One entry each: {name: CLAHE, p: 0.5, ...}"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for entry in self.transforms:
            if not isinstance(entry.get("name"), str):
                yield "transforms", f"each entry needs a name, like {{name: CLAHE}}, got {entry}"


class Augment(Section):
    """Training only; applied in the order of the keys, resize between crop and flip."""

    oversample: Oversample | None = Field(None, description="Repeat images; null: off")
    chips: Chips | None = Field(None, description="Windows in place of images; null: off")
    copy_paste: CopyPaste | None = Field(None, description="Copies of small objects; null: off")
    mosaic: Mosaic | None = Field(None, description="Four images in one; null: off")
    mixup: Mixup | None = Field(None, description="Blend two images; null: off")
    auto_augment: AutoAugment | None = Field(None, description="A learned policy; null: off")
    albumentations: Albumentations | None = Field(None, description="Of that library; null: off")
    photometric: Photometric | None = Field(None, description="SSD's colour changes; null: off")
    colour_jitter: ColourJitter | None = Field(None, description="Colour changes; null: off")
    blur: Blur | None = Field(None, description="Gaussian blur; null: off")
    zoom_out: ZoomOut | None = Field(None, description="Larger canvas; null: off")
    iou_crop: IouCrop | None = Field(None, description="IoU-aware crop; null: off")
    crop: Crop | None = Field(None, description="Crop that keeps objects whole; null: off")
    flip: Flip | None = Field(Flip(), description="Mirror images; null: off")
    cutout: Cutout | None = Field(None, description="Hide squares; null: off")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.chips is not None:
            for name in ("mosaic", "mixup", "iou_crop", "crop", "zoom_out"):
                if getattr(self, name) is not None:
                    yield (
                        name,
                        "would undo chips, which choose what an image shows; set one to null",
                    )

    @property
    def changes_size(self) -> bool:
        """Whether images of one size can leave with different sizes."""
        return any(
            getattr(self, name) is not None
            for name in ("chips", "albumentations", "zoom_out", "iou_crop", "crop")
        )


def _not_a_range(
    key: str, values: tuple[float, float], low: float, high: float
) -> Iterator[tuple[str, str]]:
    if not low <= values[0] <= values[1] <= high:
        wanted = f"two numbers from {low:g} to {high:g}, the smaller first"
        yield key, f"expected {wanted}, got {list(values)}"


class Data(Section):
    """Images, labels and the loader."""

    format: Literal["coco", "voc", "yolo", "shapes"] = Field(
        description="How the labels are stored; shapes is a generated set, written on first use"
    )
    root: str = Field(min_length=1, description="Folder of the data set, from the current folder")
    train: Split | None = Field(None, description="The training split")
    val: Split | None = Field(None, description="The validation split")
    test: Split | None = Field(None, description="A third split, only for eval.split: test")
    class_file: str | None = Field(
        None, description="yolo: class names, one per line, or a data.yaml; relative to data.root"
    )
    shapes: Shapes | None = Field(None, description="Format shapes: what is generated")
    classes: Words | None = Field(
        None, description="Names of the classes to keep, in this order; null: all of the data's"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="What to do about images or labels that cannot be used"
    )
    resize: Resize = Field(Resize(), description="Image size at the network's input")
    mean: Triple = Field(
        (123.675, 116.28, 103.53), description="Subtracted, 0..255, in the order of `channels`"
    )
    std: Triple = Field((58.395, 57.12, 57.375), description="Divided by, after the mean")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="Channel order of the network")
    pad_multiple: int = Field(32, gt=0, description="Batches are padded to a multiple of this")
    augment: Augment = Field(Augment(), description="Training augmentation")
    batch_per_rank: int = Field(2, gt=0, description="Training images per process and step")
    workers: int = Field(2, ge=0, description="Loader processes per rank; 0: load in the process")
    pin_memory: bool = Field(True, description="Page-locked batches; acts on CUDA only")
    prefetch_factor: int = Field(2, gt=0, description="Batches that each worker keeps ready")
    persistent_workers: bool = Field(True, description="Keep the workers from epoch to epoch")
    group_by_aspect: bool = Field(
        True, description="Training batches hold only portrait or only landscape images"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.std) <= 0:
            yield "std", f"expected numbers greater than 0, got {list(self.std)}"
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
