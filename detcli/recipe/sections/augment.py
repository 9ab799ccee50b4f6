"""The `data.augment` section: what happens to training images."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field

from detcli.recipe.sections.section import (
    Integers,
    Pair,
    Pixels,
    PositiveNumbers,
    Probability,
    Section,
    rule,
)


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


def limits(low: float, high: float) -> AfterValidator:
    """For the type of a pair: the range in which it is a range."""
    wanted = f"two numbers from {low:g} to {high:g}, the smaller first"
    return rule(lambda pair: low <= pair[0] <= pair[1] <= high, wanted)


SmallSide = Annotated[
    float, Field(gt=0, description="Small: box area below this squared, in original image pixels")
]


Applied = Annotated[Probability, Field(description="Probability of applying it to an image")]


class Augmentation(Section):
    """What happens to training images, and what others must know about it."""

    effects: ClassVar[Effects] = Effects()

    def more_boxes(self, densest: int) -> int:
        """How many boxes it adds to an image at most, where no image has more than `densest`."""
        return 0


class Drawn(Augmentation):
    """What is applied to some images, drawn at random."""

    prob: Applied = 0.5


class Flip(Augmentation):
    """Random horizontal and vertical flips."""

    horizontal: Probability = Field(0.5, description="Probability of a horizontal flip")
    vertical: Probability = Field(0.0, description="Probability of a vertical flip")


class Photometric(Drawn):
    """Photometric distortion: brightness, contrast, saturation, hue (SSD, Liu et al. 2016)."""


class ZoomOut(Drawn):
    """Random zoom-out: the image on a larger canvas, which makes its objects small (SSD)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    max_scale: float = Field(4.0, gt=1, description="Maximum canvas side, in image sides")


class IouCrop(Drawn):
    """Random crop with a minimum IoU with some object (SSD)."""

    effects: ClassVar = Effects(reshapes=True, whole_image=True)


class Crop(Drawn):
    """Random crop that keeps all objects, or one drawn at random, whole."""

    effects: ClassVar = Effects(reshapes=True, whole_image=True)

    min_side: float = Field(
        0.4, gt=0, lt=1, description="Minimum crop side, as a fraction of the image side"
    )
    keep: Literal["all", "one"] = Field(
        "one", description="Objects that the crop keeps whole: all, or one drawn at random"
    )


class CenterCrop(Drawn):
    """Random square crop around a random centre, padded (CornerNet, Law 2018)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    prob: Applied = 1.0
    side_px: int | None = Field(
        512, gt=0, description="Crop size before scaling; null: the longer image side"
    )
    scales: PositiveNumbers = Field(
        (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3),
        description="Random scale factors of the crop size",
    )
    border_px: int = Field(
        128, ge=0, description="Distance of the centre from the image border; less if small"
    )


class ResizeCrop(Drawn):
    """Resize, random crop and resize again (DETR, Carion et al. 2020)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True, whole_image=True)

    short: Pixels = Field((400, 500, 600), description="Short sides before the crop; one is drawn")
    side_px: Annotated[tuple[int, int], Field(strict=False), limits(1, 100_000)] = Field(
        (384, 600), description="Minimum and maximum crop side, limited by the image"
    )


class ColourJitter(Drawn):
    """Colour jitter: brightness, contrast, saturation and hue, in a random order."""

    brightness: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    contrast: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    saturation: float = Field(0.4, ge=0, le=1, description="Factors from 1 - this to 1 + this")
    hue: float = Field(
        0.1, ge=0, le=0.5, description="Maximum shift either way, in turns of the hue circle"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            yield (
                "brightness",
                "brightness, contrast, saturation and hue are all 0: set one above 0",
            )


class Blur(Drawn):
    """Gaussian blur."""

    prob: Applied = 0.3
    sigma: Annotated[Pair, limits(0.05, 50)] = Field(
        (0.3, 2.0), description="Range of sigma, in pixels of the original image"
    )


class Cutout(Drawn):
    """Cutout: squares of mean colour at random positions (DeVries and Taylor 2017)."""

    num: int = Field(1, gt=0, le=100, description="Number of erased squares per image")
    side: float = Field(0.25, gt=0, le=1, description="Side of each, in shorter image sides")


class Mosaic(Augmentation):
    """Mosaic of four images (YOLOv4, Bochkovskiy et al. 2020)."""

    effects: ClassVar = Effects(shrinks=True, whole_image=True)

    prob: Probability = Field(0.5, description="Probability that an image becomes a mosaic of four")
    scale: Annotated[Pair, limits(0.05, 4)] = Field(
        (0.5, 1.0), description="Scale range of each image; 1: it fits the whole canvas"
    )

    def more_boxes(self, densest: int) -> int:
        return 3 * densest


class Mixup(Augmentation):
    """MixUp: a blend of two images with the objects of both (Zhang et al. 2019)."""

    effects: ClassVar = Effects(shrinks=True, crowds=True, whole_image=True)

    prob: Probability = Field(0.3, description="Probability of blending an image with another")
    alpha: float = Field(1.5, gt=0, description="The mixing ratio is drawn from Beta(alpha, alpha)")

    def more_boxes(self, densest: int) -> int:
        return densest


class CopyPaste(Drawn):
    """Copy-paste of small objects at free positions (Kisantal et al. 2019)."""

    max_side_px: SmallSide = 32.0
    copies: int = Field(3, gt=0, le=100, description="Maximum number of copies per image")

    def more_boxes(self, densest: int) -> int:
        return self.copies


class DuckInjection(Drawn):
    """Pastes hard negatives and objects at plausible positions (note 002)."""

    patches: str = Field(
        min_length=1,
        description="Patch folder from `detcli data inject`, relative to the current folder",
    )
    negatives: int = Field(
        2, ge=0, le=100, description="Maximum false positives pasted per image, without a label"
    )
    objects: int = Field(1, ge=0, le=100, description="Maximum labelled objects pasted per image")
    places: int = Field(10, gt=0, le=1000, description="Positions tried per patch")
    threshold: float = Field(
        0.2, ge=0, description="Minimum mutual information of patch and background, in nats"
    )
    blend: Literal["poisson", "inpaint"] = Field(
        "poisson", description="Blending of the seam; inpaint keeps the colours of the patch"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.negatives == self.objects == 0:
            yield "negatives", "negatives and objects are both 0: set one above 0"

    def more_boxes(self, densest: int) -> int:
        return self.objects


class Poisson(Drawn):
    """Copy-paste of other images' objects with Poisson blending (note 002, for small data sets)."""

    objects: int = Field(2, gt=0, le=100, description="Maximum number of objects pasted per image")

    def more_boxes(self, densest: int) -> int:
        return self.objects


class Oversample(Augmentation):
    """Oversampling of images with small objects (Kisantal et al. 2019)."""

    ratio: int = Field(3, ge=2, le=20, description="How often an epoch shows each such image")
    max_side_px: SmallSide = 32.0


class Chips(Augmentation):
    """Square training chips in place of images, each for a range of object sizes (SNIPER)."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True)

    sides_px: Annotated[
        Integers,
        Field(min_length=1),
        rule(lambda sides: all(side >= 16 for side in sides), "at least 16 pixels"),
    ] = Field((256, 512), description="Chip sizes, in pixels of the original image")
    valid: Annotated[Pair, limits(0, 1)] = Field(
        (0.02, 0.5), description="Valid object sizes (root of the area), as fractions of the chip"
    )
    negative: Probability = Field(0.1, description="Fraction of images that give a background chip")


class AutoAugment(Augmentation):
    """AutoAugment: a learned policy of geometric and colour operations (Zoph et al. 2019)."""

    effects: ClassVar = Effects(shrinks=True)

    policy: Literal["v0", "v1", "v2", "v3"] = Field(
        "v0", description="Published AutoAugment policy; v0 is the paper's"
    )


class Albumentations(Augmentation):
    """Transforms of Albumentations: pip install 'detcli[albumentations]'."""

    effects: ClassVar = Effects(shrinks=True, reshapes=True)

    transforms: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)] = Field(
        description="One entry per transform: {name: CLAHE, p: 0.5, ...}"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for entry in self.transforms:
            if not isinstance(entry.get("name"), str):
                yield "transforms", f"each entry needs a name, like {{name: CLAHE}}, got {entry}"


class Augment(Section):
    """Data augmentation in training, in the order of the keys; resize between crop and flip."""

    oversample: Oversample | None = Field(None, description="Oversample small objects; null: off")
    chips: Chips | None = Field(None, description="Training chips (SNIPER); null: off")
    duck_injection: DuckInjection | None = Field(None, description="Paste patches; null: off")
    poisson: Poisson | None = Field(None, description="Copy-paste with Poisson blending; null: off")
    copy_paste: CopyPaste | None = Field(None, description="Copy-paste of small objects; null: off")
    mosaic: Mosaic | None = Field(None, description="Mosaic of four images; null: off")
    mixup: Mixup | None = Field(None, description="MixUp of two images; null: off")
    auto_augment: AutoAugment | None = Field(None, description="AutoAugment policy; null: off")
    albumentations: Albumentations | None = Field(None, description="Library transforms; null: off")
    photometric: Photometric | None = Field(None, description="Photometric distortion; null: off")
    colour_jitter: ColourJitter | None = Field(None, description="Colour jitter; null: off")
    blur: Blur | None = Field(None, description="Gaussian blur; null: off")
    zoom_out: ZoomOut | None = Field(None, description="Random zoom-out (expand, SSD); null: off")
    iou_crop: IouCrop | None = Field(None, description="Minimum-IoU random crop (SSD); null: off")
    crop: Crop | None = Field(None, description="Random crop that keeps objects whole; null: off")
    center_crop: CenterCrop | None = Field(None, description="CenterNet's random crop; null: off")
    resize_crop: ResizeCrop | None = Field(None, description="DETR's random crop; null: off")
    flip: Flip | None = Field(Flip(), description="Random flip; null: off")
    cutout: Cutout | None = Field(None, description="Cutout (random erasing); null: off")

    def chosen(self) -> dict[str, Augmentation]:
        """What is on, by name, in the order in which it acts."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def problems(self) -> Iterator[tuple[str, str]]:
        for name, augmentation in self.chosen().items():
            if self.chips is not None and augmentation.effects.whole_image:
                yield name, "crops again what chips has cropped; set one of them to null"
