"""AutoAugment for detection: learned policies whose operations move the boxes along."""

from __future__ import annotations

from detcli.data.transforms.policy_ops import EACH_OBJECT, WHOLE_IMAGE
from detcli.data.transforms.sample import Sample, draw, draw_index

_MAX_LEVEL = 10

Step = tuple[str, float, int]
"""Operation, probability, level from 0 to 10; `objects:` operations act inside each box."""

_V0: tuple[tuple[Step, ...], ...] = (
    (("translate_x", 0.6, 4), ("equalize", 0.8, 10)),
    (("objects:translate_y", 0.2, 2), ("cutout", 0.8, 8)),
    (("sharpness", 0.0, 8), ("shear_x", 0.4, 0)),
    (("shear_y", 1.0, 2), ("objects:translate_y", 0.6, 6)),
    (("rotate", 0.6, 10), ("color", 1.0, 6)),
)
POLICIES: dict[str, tuple[tuple[Step, ...], ...]] = {
    "v0": _V0,
    "v1": (
        *_V0,
        (("color", 0.0, 0), ("objects:shear_x", 0.8, 4)),
        (("objects:shear_y", 0.8, 2), ("objects:flip", 0.0, 10)),
        (("equalize", 0.6, 10), ("translate_x", 0.2, 2)),
        (("color", 1.0, 10), ("objects:translate_y", 0.4, 6)),
        (("rotate", 0.8, 10), ("contrast", 0.0, 10)),
        (("cutout", 0.2, 2), ("brightness", 0.8, 10)),
        (("color", 1.0, 6), ("equalize", 1.0, 2)),
        (("objects:cutout", 0.4, 6), ("objects:translate_y", 0.8, 2)),
        (("color", 0.2, 8), ("rotate", 0.8, 10)),
        (("sharpness", 0.4, 4), ("objects:translate_y", 0.0, 4)),
        (("sharpness", 1.0, 4), ("solarize_add", 0.4, 4)),
        (("rotate", 1.0, 8), ("sharpness", 0.2, 8)),
        (("shear_y", 0.6, 10), ("objects:equalize", 0.6, 8)),
        (("shear_x", 0.2, 6), ("objects:translate_y", 0.2, 10)),
        (("solarize_add", 0.6, 8), ("brightness", 0.8, 10)),
    ),
    "v2": (
        (("color", 0.0, 6), ("cutout", 0.6, 8), ("sharpness", 0.4, 8)),
        (("rotate", 0.4, 8), ("sharpness", 0.4, 2), ("rotate", 0.8, 10)),
        (("translate_y", 1.0, 8), ("autocontrast", 0.8, 2)),
        (("autocontrast", 0.4, 6), ("shear_x", 0.8, 8), ("brightness", 0.0, 10)),
        (("solarize_add", 0.2, 6), ("contrast", 0.0, 10), ("autocontrast", 0.6, 0)),
        (("cutout", 0.2, 0), ("solarize", 0.8, 8), ("color", 1.0, 4)),
        (("translate_y", 0.0, 4), ("equalize", 0.6, 8), ("solarize", 0.0, 10)),
        (("translate_y", 0.2, 2), ("shear_y", 0.8, 8), ("rotate", 0.8, 8)),
        (("cutout", 0.8, 8), ("brightness", 0.8, 8), ("cutout", 0.2, 2)),
        (("color", 0.8, 4), ("translate_y", 1.0, 6), ("rotate", 0.6, 6)),
        (("rotate", 0.6, 10), ("cutout_of_box", 1.0, 4), ("cutout", 0.2, 8)),
        (("rotate", 0.0, 0), ("equalize", 0.6, 6), ("shear_y", 0.6, 8)),
        (("brightness", 0.8, 8), ("autocontrast", 0.4, 2), ("brightness", 0.2, 2)),
        (("translate_y", 0.4, 8), ("solarize", 0.4, 6), ("solarize_add", 0.2, 10)),
        (("contrast", 1.0, 10), ("solarize_add", 0.2, 8), ("equalize", 0.2, 4)),
    ),
    "v3": (
        (("posterize", 0.8, 2), ("translate_x", 1.0, 8)),
        (("cutout_of_box", 0.2, 10), ("sharpness", 1.0, 8)),
        (("rotate", 0.6, 8), ("rotate", 0.8, 10)),
        (("equalize", 0.8, 10), ("autocontrast", 0.2, 10)),
        (("solarize_add", 0.2, 2), ("translate_y", 0.2, 8)),
        (("sharpness", 0.0, 2), ("color", 0.4, 8)),
        (("equalize", 1.0, 8), ("translate_y", 1.0, 8)),
        (("posterize", 0.6, 2), ("rotate", 0.0, 10)),
        (("autocontrast", 0.6, 0), ("rotate", 1.0, 6)),
        (("equalize", 0.0, 4), ("cutout", 0.8, 10)),
        (("brightness", 1.0, 2), ("translate_y", 1.0, 6)),
        (("contrast", 0.0, 2), ("shear_y", 0.8, 0)),
        (("autocontrast", 0.8, 10), ("contrast", 0.2, 10)),
        (("rotate", 1.0, 10), ("cutout", 1.0, 10)),
        (("solarize_add", 0.8, 6), ("equalize", 0.8, 8)),
    ),
}
"""The policies of Zoph et al. 2019, from the authors' published tables: v0 is the one of the
paper's results, the others were found in further searches."""


class AutoAugment:
    """One drawn sub-policy per image (Zoph et al. 2019, Learning data augmentation strategies for
    object detection). Counts as fired when any operation of the sub-policy acted."""

    names = ("auto_augment",)

    def __init__(self, policy: str) -> None:
        self.policy = POLICIES[policy]

    def __call__(self, sample: Sample) -> Sample:
        result = sample
        for name, prob, level in self.policy[draw_index(len(self.policy))]:
            if name in EACH_OBJECT:
                result = EACH_OBJECT[name](result, level / _MAX_LEVEL, prob)
            elif draw() < prob:
                result = WHOLE_IMAGE[name](result, level / _MAX_LEVEL)
        return sample if result is sample else result.changed("auto_augment")
