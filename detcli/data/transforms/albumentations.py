"""A bridge to the albumentations library, which is installed on request."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detcli.data.transforms.sample import Sample, draw_index
from detcli.errors import UsageError
from detcli.text import did_you_mean

_WHERE = "data.augment.albumentations"
_SEEDS = 2**24  # as many as a draw tells apart


class Albumentations:
    """Transforms of albumentations, one after the other, each with its own probability `p`.

    transforms: one mapping each, `name` and the keywords of that class. Their randomness is
    seeded from torch's generator. A box stays while any of it is visible. Counts as fired when
    the image or its boxes changed. Raises UsageError if the library is absent, and for names
    and keywords that it does not know.
    """

    names = ("albumentations",)

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        library = _library()
        steps = [_build(library, dict(entry)) for entry in transforms]
        boxes = library.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are boxes, but only changes of colour
            self.compose = library.Compose(steps, bbox_params=boxes)

    def __call__(self, sample: Sample) -> Sample:
        # One stream for all: set_random_seed would give each transform the same draws, so that
        # they would act together or not at all.
        seed = draw_index(_SEEDS)
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        before = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        done = self.compose(
            image=before, bboxes=sample.boxes.numpy(), rows=np.arange(len(sample.boxes))
        )
        after = np.ascontiguousarray(done["image"])
        rows = torch.from_numpy(np.asarray(done["rows"], np.int64).reshape(-1))
        boxes = torch.from_numpy(np.asarray(done["bboxes"], np.float32).reshape(-1, 4))
        # The library works on boxes in 0..1: they come back rounded even where nothing moved.
        still = len(rows) == len(sample.boxes) and torch.allclose(boxes, sample.boxes, atol=1e-2)
        if still and np.array_equal(before, after):
            return sample
        image = torch.from_numpy(after).permute(2, 0, 1)
        changed = sample.keep(rows).changed(image=image, boxes=boxes)
        return changed.without_degenerate().changed("albumentations")


def _library() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network
    try:
        import albumentations
    except ImportError:
        raise UsageError(
            f"{_WHERE}: the library albumentations is not installed; "
            "pip install 'detcli[albumentations]', or set the key to null"
        ) from None
    return albumentations


def _build(library: Any, keywords: dict[str, Any]) -> Any:
    name = keywords.pop("name")
    kind = getattr(library, name, None)
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform)):
        hint = did_you_mean(name, dir(library))
        raise UsageError(f"{_WHERE}: albumentations has no transform {name!r}{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown keyword is only a warning there
            return kind(**keywords)
    except (TypeError, ValueError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{_WHERE}: {name}: {reason}") from None
