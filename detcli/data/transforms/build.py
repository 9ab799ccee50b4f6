"""From recipe keywords to a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detcli.data.records import Records
from detcli.data.transforms.albumentations import Albumentations
from detcli.data.transforms.center_crop import CenterCrop
from detcli.data.transforms.chips import Chips, no_valid_size
from detcli.data.transforms.colour import Blur, ColourJitter, Photometric
from detcli.data.transforms.crop import IoUCrop, SafeCrop
from detcli.data.transforms.cutout import Cutout
from detcli.data.transforms.duck import DuckInjection, no_patches
from detcli.data.transforms.geometry import Flip, Resize, ZoomOut
from detcli.data.transforms.mix import Mixup, Mosaic
from detcli.data.transforms.oversample import Oversample, nothing_to_repeat
from detcli.data.transforms.paste import CopyPaste, nothing_to_copy
from detcli.data.transforms.poisson import Poisson, nothing_to_blend
from detcli.data.transforms.policy import AutoAugment
from detcli.data.transforms.pool import Mixing, Pool, too_few
from detcli.data.transforms.resize_crop import ResizeCrop
from detcli.data.transforms.sample import Sample
from detcli.data.transforms.small import no_objects
from detcli.errors import UsageError

Step = Callable[[Sample], Sample] | Mixing


class Augmentation(NamedTuple):
    """How an augmentation is made from its keywords, `kind(**keywords)`.

    cannot_act(records, keywords): why it would do nothing on a training split, None if it can act;
    late: it acts after the resize, all others on pixels of the image as stored.
    """

    kind: Any
    cannot_act: Callable[[Records, Mapping[str, Any]], str | None] | None = None
    late: bool = False


AUGMENTATIONS = {
    "oversample": Augmentation(Oversample, nothing_to_repeat),
    "chips": Augmentation(Chips, no_valid_size),
    "duck_injection": Augmentation(DuckInjection, no_patches),
    "poisson": Augmentation(Poisson, nothing_to_blend),
    "copy_paste": Augmentation(CopyPaste, nothing_to_copy),
    "mosaic": Augmentation(Mosaic, too_few),
    "mixup": Augmentation(Mixup, too_few),
    "auto_augment": Augmentation(AutoAugment),
    "albumentations": Augmentation(Albumentations),
    "photometric": Augmentation(Photometric),
    "colour_jitter": Augmentation(ColourJitter),
    "blur": Augmentation(Blur),
    "zoom_out": Augmentation(ZoomOut),
    "iou_crop": Augmentation(IoUCrop, no_objects),
    "crop": Augmentation(SafeCrop),
    "center_crop": Augmentation(CenterCrop),
    "resize_crop": Augmentation(ResizeCrop),
    "flip": Augmentation(Flip, late=True),
    "cutout": Augmentation(Cutout, late=True),
}
"""By their names in recipes. They act in the order of the recipe's keys, not in this one."""


class Pipeline:
    """Transforms one after the other.

    names: the augmentations that may fire, for the log; oversample: the images that an epoch
    shows more often, None for each once.
    """

    def __init__(
        self, steps: Sequence[Step], names: Sequence[str] = (), oversample: Oversample | None = None
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
    which false makes every image a square and is true if left out. augment: keywords of each of
    AUGMENTATIONS by its name, None if it is off, in the order in which they act; `oversample` acts
    on the plan of the epoch. Outside training only the resize to eval_short. Raises UsageError for
    albumentations that are not there, DataError for patches that cannot be read.
    """
    short = resize["short"]
    long = resize["long"] if resize.get("keep_aspect", True) else None
    if not train:
        return Pipeline([Resize([resize["eval_short"] or max(short)], long, "choice")])
    chosen = {name: keywords for name, keywords in augment.items() if keywords is not None}
    made = {name: AUGMENTATIONS[name].kind(**keywords) for name, keywords in chosen.items()}
    late = [made.pop(name) for name in chosen if AUGMENTATIONS[name].late]
    names = [name for each in (*made.values(), *late) for name in each.names]
    oversample = made.pop("oversample", None)
    steps = [*made.values(), Resize(short, long, resize["pick"]), *late]
    return Pipeline(steps, names, oversample)


def check_augmentations(records: Records, augment: Mapping[str, Any]) -> None:
    """Refuse augmentations that could do nothing on this training split.

    augment: as in `build_transforms`. Raises UsageError with a line for each of them, DataError for
    patches that cannot be read.
    """
    lines = []
    for name, keywords in augment.items():
        cannot_act = AUGMENTATIONS[name].cannot_act
        why = cannot_act(records, keywords) if cannot_act and keywords is not None else None
        if why:
            lines.append(f"data.augment.{name} cannot act: {why}; set it to null")
    if lines:
        raise UsageError("\n".join(lines))
