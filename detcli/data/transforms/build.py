"""From recipe keywords to a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detcli.data.transforms.albumentations import Albumentations
from detcli.data.transforms.center_crop import CenterCrop
from detcli.data.transforms.chips import Chips
from detcli.data.transforms.colour import Blur, ColourJitter, Photometric
from detcli.data.transforms.crop import IoUCrop, SafeCrop
from detcli.data.transforms.cutout import Cutout
from detcli.data.transforms.duck import DuckInjection
from detcli.data.transforms.geometry import Flip, Resize, ZoomOut
from detcli.data.transforms.mix import Mixup, Mosaic
from detcli.data.transforms.oversample import Oversample
from detcli.data.transforms.paste import CopyPaste
from detcli.data.transforms.poisson import Poisson
from detcli.data.transforms.policy import AutoAugment
from detcli.data.transforms.pool import Mixing, Pool
from detcli.data.transforms.resize_crop import ResizeCrop
from detcli.data.transforms.sample import Sample

Step = Callable[[Sample], Sample] | Mixing

BEFORE_RESIZE: dict[str, Any] = {
    "chips": Chips,
    "duck_injection": DuckInjection,
    "poisson": Poisson,
    "copy_paste": CopyPaste,
    "mosaic": Mosaic,
    "mixup": Mixup,
    "auto_augment": AutoAugment,
    "albumentations": Albumentations,
    "photometric": Photometric,
    "colour_jitter": ColourJitter,
    "blur": Blur,
    "zoom_out": ZoomOut,
    "iou_crop": IoUCrop,
    "crop": SafeCrop,
    "center_crop": CenterCrop,
    "resize_crop": ResizeCrop,
}
"""Augmentations on pixels of the image as stored, in the order in which they act. After them come
resize, flip and cutout."""


class Pipeline:
    """Transforms one after the other.

    names: the augmentations that may fire, for the log; oversample: the images that an epoch
    shows more often, None for each once.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        names: Sequence[str] = (),
        oversample: Oversample | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.names = tuple(names)
        self.oversample = oversample

    def __call__(self, sample: Sample, pool: Pool | None = None) -> Sample:
        """Apply every step; `pool` is needed where one of them mixes images."""
        for step in self.steps:
            if isinstance(step, Mixing):
                assert pool is not None, "a mixing transform needs a pool"
                sample = step(sample, pool)
            else:
                sample = step(sample)
        return sample


def build_transforms(
    *, resize: Mapping[str, Any], augment: Mapping[str, Any], train: bool
) -> Pipeline:
    """The pipeline of a split.

    resize: short (list), long, pick, eval_short (None = the largest of short), and keep_aspect,
    which false makes every image a square and is true if left out. augment: keywords
    of each augmentation by its name, None if it is off: those of BEFORE_RESIZE, then flip,
    cutout, and oversample, which acts on the plan of the epoch. Outside training only the resize
    to eval_short. Raises UsageError for albumentations that are not there, DataError for patches
    that cannot be read.
    """
    short = resize["short"]
    long = resize["long"] if resize.get("keep_aspect", True) else None
    if not train:
        return Pipeline([Resize([resize["eval_short"] or max(short)], long, "choice")])
    chosen = {name: value for name, value in augment.items() if value is not None}
    early = [kind(**chosen[name]) for name, kind in BEFORE_RESIZE.items() if name in chosen]
    oversample = Oversample(**chosen["oversample"]) if "oversample" in chosen else None
    names = list(oversample.names) if oversample else []
    names += [name for step in early for name in step.names]
    late: list[Step] = []
    flip = chosen.get("flip")
    if flip is not None:
        late.append(Flip(**flip))
        names += [f"flip_{way}" for way in ("horizontal", "vertical") if flip[way] > 0]
    if "cutout" in chosen:
        late.append(Cutout(**chosen["cutout"]))
        names += Cutout.names
    return Pipeline([*early, Resize(short, long, resize["pick"]), *late], names, oversample)
