"""Duck injection: patches at plausible places of an image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from detcli.data.mutual_information import mutual_information
from detcli.data.records import Records
from detcli.data.transforms.blending import Blend, blend_in, pixels_of
from detcli.data.transforms.paste import free_place
from detcli.data.transforms.patches import INDEX, Patch, read_patches
from detcli.data.transforms.sample import Sample, draw, draw_index


class Place(NamedTuple):
    """The corner of a patch in an image, and what the pixels there and it have in common (nats)."""

    top: int
    left: int
    mutual_information: float


@dataclass(frozen=True)
class Attempt:
    """A patch, the free places that were drawn for it, and the one it was put at, if any."""

    patch: Patch
    places: tuple[Place, ...]
    placed: Place | None


class DuckInjection:
    """Put patches of a folder into training images: wrong detections without a label, so that they
    become hard negatives, and objects with theirs.

    patches: a folder that `detcli data inject` wrote; negatives, objects: how many of each an
    image receives at most, drawn with replacement. See `inject` for the rest. Raises DataError for
    a folder that cannot be read.
    """

    def __init__(
        self,
        prob: float,
        patches: str,
        negatives: int,
        objects: int,
        places: int,
        threshold: float,
        blend: Blend,
    ) -> None:
        found = read_patches(patches)
        self.prob = prob
        self.counts = ((found.negatives, negatives), (found.objects, objects))
        self.places = places
        self.threshold = threshold
        self.blend = blend
        self.names = tuple(
            name
            for name, count in (("duck_negative", negatives), ("duck_object", objects))
            if count
        )

    def __call__(self, sample: Sample) -> Sample:
        if draw() >= self.prob:
            return sample
        drawn = [
            patches[draw_index(len(patches))]
            for patches, count in self.counts
            for _ in range(count)
        ]
        result, attempts = inject(
            sample, drawn, places=self.places, threshold=self.threshold, blend=self.blend
        )
        placed = {attempt.patch.is_object for attempt in attempts if attempt.placed}
        for name, is_object in (("duck_negative", False), ("duck_object", True)):
            if is_object in placed:
                result = result.changed(name)
        return result if placed else sample


def inject(
    sample: Sample, patches: Sequence[Patch], *, places: int, threshold: float, blend: Blend
) -> tuple[Sample, list[Attempt]]:
    """The image with those of the patches that suit it, and what became of each.

    For each patch up to `places` places are drawn where it lies inside the image and overlaps
    neither a box, ignored ones included, nor an earlier patch. It goes to the one whose pixels
    have most mutual information with its own, if that is at least `threshold` nats; see
    `blend_in` for `blend`.

    As in Duck_inject.py of the Tianchi fabric defects project (chuliuT), which draws one place,
    demands 0.8 of a histogram with 256 bins, and blends by inpainting.
    """
    result = sample.changed(image=sample.image.clone())
    taken = sample.boxes
    attempts = []
    for patch in patches:
        found = _places(result, taken, patch, places)
        best = max(found, key=lambda place: place.mutual_information, default=None)
        if best is not None and best.mutual_information < threshold:
            best = None
        attempts.append(Attempt(patch, found, best))
        if best is None:
            continue
        top, left, _ = best
        result = blend_in(result, patch.sample, patch.core, top, left, blend=blend)
        height, width = patch.sample.size
        window = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
        taken = torch.cat([taken, window])
    return result, attempts


def _places(sample: Sample, taken: torch.Tensor, patch: Patch, count: int) -> tuple[Place, ...]:
    """Free places for the patch, with their mutual information."""
    height, width = patch.sample.size
    mine = pixels_of(patch.sample.image)
    found = []
    for _ in range(count):
        corner = free_place(taken, sample.size, (height, width))
        if corner is not None:
            top, left = corner
            there = pixels_of(sample.image[:, top : top + height, left : left + width])
            found.append(Place(top, left, mutual_information(mine, there)))
    return tuple(found)


def no_patches(records: Records, keywords: Mapping[str, Any]) -> str | None:
    """Why DuckInjection has nothing to put into these images; None if it can act. Raises DataError
    for patches that cannot be read."""
    folder = keywords["patches"]
    if not os.path.isfile(os.path.join(folder, INDEX)):
        return f"patches: {folder} has no {INDEX}; `detcli data inject` writes such a folder"
    found = read_patches(folder)
    for key, patches in (("negatives", found.negatives), ("objects", found.objects)):
        if keywords[key] and not patches:
            return f"patches: {folder} has no {key}, but {key} is {keywords[key]}; set that to 0"
    if keywords["objects"] and found.class_names != records.class_names:
        theirs, ours = (", ".join(names) for names in (found.class_names, records.class_names))
        return f"patches: {folder} has the classes {theirs}, and the data {ours}"
    return None
