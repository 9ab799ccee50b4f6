"""The `data.augment` section: what happens to training images."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from detcli.recipe.sections.section import Integers, Numbers, Pair, Probability, Section


class Effects(NamedTuple):
    """What an augmentation can do that others must know about.

    shrinks: objects become smaller than the resize alone makes them; crowds: an object lies over
    others; reshapes: images of one size leave with different sizes; whole_image: another part of
    the image is seen, which is for chips to choose.
    """

    shrinks: bool = False
    crowds: bool = False
    reshapes: bool = False
    whole_image: bool = False


class Augmentation(Section):
    """What happens to training images, and what others must know about it."""

    effects: ClassVar[Effects] = Effects()

    def more_boxes(self, densest: int) -> int:
        """How many boxes it adds to an image at most, where no image has more than `densest`."""
        return 0


class Flip(Augmentation):
    """Mirror images of a training image."""

    horizontal: Probability = Field(0.5, description="Probability of a left-right flip")
    vertical: Probability = Field(0.0, description="Probability of an up-down flip")


class Photometric(Augmentation):
    """Random brightness, contrast, saturation and hue (SSD, Liu et al. 2016)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")


class ZoomOut(Augmentation):
    """The image on a larger canvas, so that its objects become small (SSD)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    max_scale: float = Field(4.0, gt=1, description="Largest side of the canvas, in image sides")


class IouCrop(Augmentation):
    """A random crop that keeps a minimum IoU with some object (SSD)."""

    effects: ClassVar = Effects(reshapes=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image is changed")


class Crop(Augmentation):
    """A random crop that holds all objects, or a drawn one, whole."""

    effects: ClassVar = Effects(reshapes=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    min_side: float = Field(
        0.4, gt=0, lt=1, description="Shortest side of the crop, as a share of the image's"
    )
    keep: Literal["all", "one"] = Field(
        "one", description="What stays whole: every object, or one drawn object, tiny ones alike"
    )


class CenterCrop(Augmentation):
    """A square window around a drawn point, filled beyond the image (CornerNet, Law 2018)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    prob: Probability = Field(1.0, description="Probability that an image is changed")
    side_px: int | None = Field(
        512, gt=0, description="Side of the window before scaling; null: the image's longer side"
    )
    scales: Numbers = Field(
        (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
        min_length=1,
        description="One of these multiplies the side",
    )
    border_px: int = Field(
        128, ge=0, description="Distance of the point from the image's edges; less in small images"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.scales) <= 0:
            yield "scales", f"expected numbers greater than 0, got {list(self.scales)}"


class ResizeCrop(Augmentation):
    """A crop that is resized before and after (DETR, Carion et al. 2020)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    short: Integers = Field(
        (400, 500, 600), min_length=1, description="Short sides before the crop; one is drawn"
    )
    side_px: Annotated[tuple[int, int], Field(strict=False)] = Field(
        (384, 600), description="Shortest and longest side of the crop, at most the image's"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if min(self.short) <= 0:
            yield "short", f"expected pixels greater than 0, got {list(self.short)}"
        yield from _not_a_range("side_px", self.side_px, 1, 100_000)


class ColourJitter(Augmentation):
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


class Blur(Augmentation):
    """Gaussian blur."""

    prob: Probability = Field(0.3, description="Probability that an image is changed")
    sigma: Pair = Field((0.3, 2.0), description="Range of the width, in pixels of the stored image")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _not_a_range("sigma", self.sigma, 0.05, 50)


class Cutout(Augmentation):
    """Squares of mean colour at random places (DeVries and Taylor 2017)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    num: int = Field(1, gt=0, le=100, description="Squares per image")
    side: float = Field(0.25, gt=0, le=1, description="Side of each, in shorter sides of the image")


class Mosaic(Augmentation):
    """Four images in one (YOLOv4, Bochkovskiy et al. 2020)."""

    effects: ClassVar = Effects(shrinks=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image becomes one of four")
    scale: Pair = Field(
        (0.5, 1.0), description="Range of the images' sizes; 1: the image fits the whole canvas"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _not_a_range("scale", self.scale, 0.05, 4)

    def more_boxes(self, densest: int) -> int:
        return 3 * densest


class Mixup(Augmentation):
    """A blend with another image, objects of both (Zhang et al. 2019)."""

    effects: ClassVar = Effects(shrinks=True, crowds=True, whole_image=True)

    prob: Probability = Field(0.3, description="Probability that an image is blended")
    alpha: float = Field(1.5, gt=0, description="Shares are drawn from Beta(alpha, alpha)")

    def more_boxes(self, densest: int) -> int:
        return densest


class CopyPaste(Augmentation):
    """Copies of small objects at free places (Kisantal et al. 2019)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    max_side_px: float = Field(
        32.0, gt=0, description="Small: a box area below its square, in pixels of the stored image"
    )
    copies: int = Field(3, gt=0, le=100, description="Copies per image at most")

    def more_boxes(self, densest: int) -> int:
        return self.copies


class DuckInjection(Augmentation):
    """Wrong detections and objects of a folder of patches at plausible places (note 002)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    patches: str = Field(
        min_length=1,
        description="Folder of patches that `detcli data inject` wrote, from the current folder",
    )
    negatives: int = Field(
        2, ge=0, le=100, description="Wrong detections per image at most, put there without a label"
    )
    objects: int = Field(1, ge=0, le=100, description="Labelled objects per image at most")
    places: int = Field(10, gt=0, le=1000, description="Places that are tried for each patch")
    threshold: float = Field(
        0.2, ge=0, description="Least mutual information of patch and place, in nats"
    )
    blend: Literal["poisson", "inpaint"] = Field(
        "poisson", description="How the seam is hidden; inpaint leaves the colours as they are"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.negatives == self.objects == 0:
            yield "negatives", "negatives and objects are both 0: nothing is injected"

    def more_boxes(self, densest: int) -> int:
        return self.objects


class Poisson(Augmentation):
    """Objects of another image, blended in at free places (note 002, for small data sets)."""

    prob: Probability = Field(0.5, description="Probability that an image is changed")
    objects: int = Field(2, gt=0, le=100, description="Objects per image at most")

    def more_boxes(self, densest: int) -> int:
        return self.objects


class Oversample(Augmentation):
    """Images with small objects several times per epoch (Kisantal et al. 2019)."""

    ratio: int = Field(3, ge=2, le=20, description="How often an epoch shows each of these images")
    max_side_px: float = Field(
        32.0, gt=0, description="Small: a box area below its square, in pixels of the stored image"
    )


class Chips(Augmentation):
    """A square window in place of the image, for objects of a range of sizes (SNIPER)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True)

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


class AutoAugment(Augmentation):
    """A learned policy of geometric and colour operations (Zoph et al. 2019)."""

    effects: ClassVar = Effects(shrinks=True)

    policy: Literal["v0", "v1", "v2", "v3"] = Field(
        "v0", description="Which of the published policies; v0 is the paper's"
    )


class Albumentations(Augmentation):
    """Transforms of the albumentations library: pip install 'detcli[albumentations]'."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True)

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
    duck_injection: DuckInjection | None = Field(None, description="Patches; null: off")
    poisson: Poisson | None = Field(None, description="Objects of other images; null: off")
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
    center_crop: CenterCrop | None = Field(None, description="CenterNet's crop; null: off")
    resize_crop: ResizeCrop | None = Field(None, description="DETR's crop; null: off")
    flip: Flip | None = Field(Flip(), description="Mirror images; null: off")
    cutout: Cutout | None = Field(None, description="Hide squares; null: off")

    def chosen(self) -> dict[str, Augmentation]:
        """What is on, by name, in the order in which it acts."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, augmentation in self.chosen().items():
            if self.chips is not None and augmentation.effects.whole_image:
                yield name, "would undo chips, which choose what an image shows; set one to null"


def _not_a_range(
    key: str, values: tuple[float, float], low: float, high: float
) -> Iterator[tuple[str, str]]:
    if not low <= values[0] <= values[1] <= high:
        wanted = f"two numbers from {low:g} to {high:g}, the smaller first"
        yield key, f"expected {wanted}, got {list(values)}"
