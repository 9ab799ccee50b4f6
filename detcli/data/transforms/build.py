"""From recipe keywords to a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detcli.data.transforms.colour import Photometric
from detcli.data.transforms.geometry import Flip, IoUCrop, Resize, ZoomOut
from detcli.data.transforms.sample import Sample


class Pipeline:
    """Transforms one after the other. names: the augmentations that may fire, for the log."""

    def __init__(
        self, steps: Sequence[Callable[[Sample], Sample]], names: Sequence[str] = ()
    ) -> None:
        self.steps = tuple(steps)
        self.names = tuple(names)

    def __call__(self, sample: Sample) -> Sample:
        for step in self.steps:
            sample = step(sample)
        return sample


def build_transforms(
    *, resize: Mapping[str, Any], augment: Mapping[str, Any], train: bool
) -> Pipeline:
    """The pipeline of a split.

    resize: short (list), long, pick, eval_short (None = the largest of short). augment: flip
    {horizontal, vertical}, photometric {prob}, zoom_out {prob, max_scale}, iou_crop {prob}, each
    None if off. Order in training: photometric, zoom_out, iou_crop, resize, flip. Outside
    training only the resize to eval_short.
    """
    short, long = resize["short"], resize["long"]
    if not train:
        return Pipeline([Resize([resize["eval_short"] or max(short)], long, "choice")])
    steps: list[Any] = []
    for name, kind in (("photometric", Photometric), ("zoom_out", ZoomOut), ("iou_crop", IoUCrop)):
        if augment.get(name) is not None:
            steps.append(kind(**augment[name]))
    steps.append(Resize(short, long, resize["pick"]))
    names = [name for step in steps[:-1] for name in step.names]
    flip = augment.get("flip")
    if flip is not None:
        steps.append(Flip(**flip))
        names += [f"flip_{way}" for way in ("horizontal", "vertical") if flip[way] > 0]
    return Pipeline(steps, names)
