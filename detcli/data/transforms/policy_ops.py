"""Operations of detection policies (Zoph et al. 2019).

What a level means is the paper's. The paper's lengths are pixels of COCO images; here they are
fractions of the image's longer side, COCO's being 640, so that they mean the same at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from detcli.data.transforms.cutout import hide, square
from detcli.data.transforms.geometry import flip_horizontal
from detcli.data.transforms.sample import IMAGENET_MEAN, Sample, draw, draw_index

Op = Callable[[Sample, float], Sample]
"""Takes a sample and a level in 0..1; gives the same sample back if it did nothing."""

ObjectOp = Callable[[Sample, float, float], Sample]
"""Takes a sample, a level in 0..1, and the policy's probability."""

_FILL = [float(value) for value in IMAGENET_MEAN]
_COCO_SIDE_PX = 640
_TRANSLATE_PX = 250
_TRANSLATE_OBJECT_PX = 120
_CUTOUT_PX = 200
_CUTOUT_OBJECT_PX = 100
_CUTOUT_OF_BOX = 0.75
_ROTATE_DEGREES = 30.0
_SHEAR = 0.3
_SOLARIZE_ADD = 110.0
_SHARE_OF_OBJECTS = 1 / 3
"""Each object is changed with this fraction of the policy's probability."""


def affine(sample: Sample, matrix: tuple[float, float, float, float], shift: Tensor) -> Sample:
    """Move pixels and boxes by x' = matrix (x - centre) + centre + shift.

    matrix: its two rows; shift (2,) pixels. A box becomes the smallest one around its four moved
    corners; which boxes stay is decided as in a crop.
    """
    height, width = sample.size
    centre = torch.tensor([width, height]) / 2
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], dim=1).reshape(-1, 4, 2)
    moved = (corners - centre) @ torch.tensor(matrix).reshape(2, 2).T + centre + shift
    boxes = torch.cat([moved.amin(1), moved.amax(1)], dim=1)
    image = _move_pixels(sample.image, matrix, shift)
    return sample.changed(image=image, boxes=boxes).cut_to_image()


def _move_pixels(image: Tensor, matrix: tuple[float, float, float, float], shift: Tensor) -> Tensor:
    a, b, c, d = matrix
    angle, shear = 0.0, [0.0, 0.0]
    if a == d == 1:
        # torchvision's shears are angles, and positive ones push against the axis.
        shear = [-math.degrees(math.atan(b)), -math.degrees(math.atan(c))]
    else:
        angle = math.degrees(math.atan2(c, a))
    moved: Tensor = F.affine(
        image,
        angle=angle,
        translate=shift.tolist(),
        scale=1.0,
        shear=shear,
        interpolation=InterpolationMode.BILINEAR,
        fill=_FILL,
    )
    return moved


def rotate(sample: Sample, level: float) -> Sample:
    angle = math.radians(signed(_ROTATE_DEGREES * level))
    if angle == 0:
        return sample
    cos, sin = math.cos(angle), math.sin(angle)
    return affine(sample, (cos, -sin, sin, cos), torch.zeros(2))


def shear_x(sample: Sample, level: float) -> Sample:
    slope = signed(_SHEAR * level)
    return affine(sample, (1.0, slope, 0.0, 1.0), torch.zeros(2)) if slope else sample


def shear_y(sample: Sample, level: float) -> Sample:
    slope = signed(_SHEAR * level)
    return affine(sample, (1.0, 0.0, slope, 1.0), torch.zeros(2)) if slope else sample


def translate_x(sample: Sample, level: float) -> Sample:
    return _translate(sample, level, torch.tensor([1.0, 0.0]))


def translate_y(sample: Sample, level: float) -> Sample:
    return _translate(sample, level, torch.tensor([0.0, 1.0]))


def _translate(sample: Sample, level: float, way: Tensor) -> Sample:
    pixels = round(signed(_TRANSLATE_PX * level) * coco_pixel(sample))
    return affine(sample, (1.0, 0.0, 0.0, 1.0), way * pixels) if pixels else sample


def cutout(sample: Sample, level: float) -> Sample:
    side = round(_CUTOUT_PX * level * coco_pixel(sample))
    return hide(sample, [square(sample, side)]) if side else sample


def cutout_of_box(sample: Sample, level: float) -> Sample:
    """Hide a part of one drawn object, around a point in it."""
    rows = (~sample.ignore).nonzero()[:, 0].tolist()
    if not rows or not level:
        return sample
    x1, y1, x2, y2 = sample.boxes[rows[draw_index(len(rows))]].tolist()
    x, y = x1 + draw() * (x2 - x1), y1 + draw() * (y2 - y1)
    half_x, half_y = (_CUTOUT_OF_BOX * level * side / 2 for side in (x2 - x1, y2 - y1))
    left, right = max(round(x1), round(x - half_x)), min(round(x2), round(x + half_x))
    top, bottom = max(round(y1), round(y - half_y)), min(round(y2), round(y + half_y))
    return hide(sample, [(left, top, max(left, right), max(top, bottom))])


def coco_pixel(sample: Sample) -> float:
    """How many pixels of this image are one of a COCO image."""
    return max(sample.size) / _COCO_SIDE_PX


def signed(value: float) -> float:
    """The value or its negative, each as likely."""
    return value if draw() < 0.5 else -value


def on_pixels(change: Callable[[Tensor, float], Tensor]) -> Op:
    """An operation that leaves the boxes where they are."""
    return lambda sample, level: sample.changed(image=change(sample.image, level))


def on_objects(change: Callable[[Sample, float, float], Sample]) -> ObjectOp:
    """An operation inside the box of each object, drawn for each; the boxes stay.

    change takes what is inside the box, the level, and the image's `coco_pixel`.
    """

    def apply(sample: Sample, level: float, prob: float) -> Sample:
        image = None
        for box in sample.boxes[~sample.ignore].tolist():
            if draw() >= prob * _SHARE_OF_OBJECTS:
                continue
            left, top = int(box[0]), int(box[1])
            right, bottom = math.ceil(box[2]), math.ceil(box[3])
            image = sample.image.clone() if image is None else image
            inside = image[:, top:bottom, left:right]
            nothing = torch.zeros(0, dtype=torch.bool)
            content = Sample(inside.clone(), torch.zeros(0, 4), nothing.long(), nothing)
            inside.copy_(change(content, level, coco_pixel(sample)).image)
        return sample if image is None else sample.changed(image=image)

    return apply


def _translate_inside(content: Sample, level: float, pixel: float) -> Sample:
    """Up or down, by at most half the object, so that there is something left of small ones."""
    pixels = min(round(_TRANSLATE_OBJECT_PX * level * pixel), content.size[0] // 2)
    shift = torch.tensor([0.0, signed(float(pixels))])
    return affine(content, (1.0, 0.0, 0.0, 1.0), shift)


def _cutout_inside(content: Sample, level: float, pixel: float) -> Sample:
    """A square of at most half the object's longer side."""
    side = min(round(_CUTOUT_OBJECT_PX * level * pixel), max(content.size) // 2)
    return hide(content, [square(content, side)])


def _enhancement(level: float) -> float:
    return 0.1 + 1.8 * level


def _solarize_add(image: Tensor, level: float) -> Tensor:
    """Brighten the dark half of the range."""
    brighter = (image.short() + int(_SOLARIZE_ADD * level)).clamp(max=255).to(torch.uint8)
    return torch.where(image < 128, brighter, image)


WHOLE_IMAGE: dict[str, Op] = {
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "cutout": cutout,
    "cutout_of_box": cutout_of_box,
    "autocontrast": on_pixels(lambda image, _: F.autocontrast(image)),
    "equalize": on_pixels(lambda image, _: F.equalize(image)),
    # At least one bit: with none, which the paper's level 2 means, the image would be black.
    "posterize": on_pixels(lambda image, level: F.posterize(image, max(1, int(4 * level)))),
    "solarize": on_pixels(lambda image, level: F.solarize(image, min(255.0, 256 * level))),
    "solarize_add": on_pixels(_solarize_add),
    "color": on_pixels(lambda image, level: F.adjust_saturation(image, _enhancement(level))),
    "contrast": on_pixels(lambda image, level: F.adjust_contrast(image, _enhancement(level))),
    "brightness": on_pixels(lambda image, level: F.adjust_brightness(image, _enhancement(level))),
    "sharpness": on_pixels(lambda image, level: F.adjust_sharpness(image, _enhancement(level))),
}

EACH_OBJECT: dict[str, ObjectOp] = {
    "objects:translate_y": on_objects(_translate_inside),
    "objects:shear_x": on_objects(lambda content, level, _: shear_x(content, level)),
    "objects:shear_y": on_objects(lambda content, level, _: shear_y(content, level)),
    "objects:flip": on_objects(lambda content, *_: flip_horizontal(content)),
    "objects:cutout": on_objects(_cutout_inside),
    "objects:equalize": on_objects(
        lambda content, *_: content.changed(image=F.equalize(content.image))
    ),
}
