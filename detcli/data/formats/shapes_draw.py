"""Drawing for the generated data set: outlines, textures, occlusion.

Coordinates are continuous: pixel (i, j) covers [j, j + 1] x [i, i + 1].
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

_SHIFT = 4  # OpenCV draws in steps of 2^-4 pixels
_FINER = 4
_PLACEMENT_TRIALS = 30
_MIN_CONTRAST = 70.0  # Euclidean distance in RGB between a shape and what is behind it


class Scene(NamedTuple):
    """One image and its labelled objects.

    pixels (H, W, 3) uint8 RGB; labels: positions in CLASSES; boxes_xywh: left, top, width,
    height, clipped to the image; areas: pixels of each shape inside the image, hidden ones too.
    """

    pixels: NDArray[np.uint8]
    labels: list[int]
    boxes_xywh: list[tuple[float, float, float, float]]
    areas: list[int]


def _polygon(sides: int) -> Points:
    angles = np.arange(sides) * (2 * math.pi / sides)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _arc(start: float, stop: float, radius: float) -> Points:
    angles = np.linspace(start, stop, 40)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross() -> Points:
    a, b = 0.94, 0.33
    quarter = np.array([(b, a), (b, b), (a, b)])
    turns = [np.array([[0, 1], [-1, 0]]), -np.eye(2), np.array([[0, -1], [1, 0]])]
    return np.concatenate([quarter, *(quarter @ turn.T for turn in turns)])


# Outlines inside the unit circle. A ring is drawn as one outline that runs back on the inside.
CLASSES: dict[str, Callable[[], Points]] = {
    "circle": lambda: _polygon(60),
    "square": lambda: _polygon(4),
    "triangle": lambda: _polygon(3),
    "cross": _cross,
}
_PLAIN_DISTRACTORS: dict[str, Callable[[], Points]] = {
    "half disc": lambda: _arc(0, math.pi, 1.0),
    "bar": lambda: np.array([(-1, -0.14), (1, -0.14), (1, 0.14), (-1, 0.14)]),
    "angle": lambda: np.array(
        [(-0.7, -0.7), (0.7, -0.7), (0.7, -0.35), (-0.35, -0.35), (-0.35, 0.7), (-0.7, 0.7)]
    ),
}
_LOOKALIKES: dict[str, Callable[[], Points]] = {
    "ring": lambda: np.concatenate([_arc(0, 2 * math.pi, 1.0), _arc(2 * math.pi, 0, 0.62)]),
    "hexagon": lambda: _polygon(6),
    "tee": lambda: (
        np.array([(-9, -9), (9, -9), (9, -3), (3, -3), (3, 9), (-3, 9), (-3, -3), (-9, -3)])
        / 10
        * 0.8
    ),
    "arrow": lambda: np.array([(1, 0), (-0.5, 0.87), (-0.1, 0), (-0.5, -0.87)]),
}


def draw_scene(
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    num_objects: int,
    num_distractors: int,
    side: tuple[float, float],
    min_visible: float,
    lookalikes: bool,
    class_hues: bool,
) -> Scene:
    """Draw a background, then objects and distractors in random order of depth.

    A shape that finds no place where it leaves the earlier ones visible enough is left out.
    class_hues: each class keeps to its own part of the colour circle; distractors have any colour.
    """
    distractors = _PLAIN_DISTRACTORS | (_LOOKALIKES if lookalikes else {})
    plan: list[int | None] = [int(rng.integers(len(CLASSES))) for _ in range(num_objects)]
    plan += [None] * num_distractors
    order = rng.permutation(len(plan))
    canvas = _background(size, rng)
    scene = Canvas(canvas, min_visible, class_hues=class_hues)
    for label in (plan[i] for i in order):
        makers = list(distractors.values()) if label is None else list(CLASSES.values())
        maker = makers[int(rng.integers(len(makers)))] if label is None else makers[label]
        for _ in range(_PLACEMENT_TRIALS):
            if scene.place(label, _placed(maker(), size, side, rng), rng):
                break
    noisy = scene.pixels + rng.normal(0, 4.0, scene.pixels.shape)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    found = [(label, box, area) for label, box, area in scene.objects if label is not None]
    return Scene(pixels, [f[0] for f in found], [f[1] for f in found], [f[2] for f in found])


def _placed(
    outline: Points, size: tuple[int, int], side: tuple[float, float], rng: np.random.Generator
) -> Points:
    """The outline stretched, turned, scaled and moved; its centre is well inside the image."""
    height, width = size
    diameter = rng.uniform(*side) * min(size)
    stretch = math.sqrt(rng.uniform(0.8, 1.25))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    margin = 0.35 * diameter
    centre = rng.uniform((margin, margin), (width - margin, height - margin))
    stretched = outline * np.array([stretch, 1 / stretch]) * (diameter / 2)
    return np.asarray(stretched @ turn.T + centre)


class Canvas:
    """The picture so far, and what is visible of each shape in it."""

    def __init__(
        self, pixels: NDArray[np.float64], min_visible: float, *, class_hues: bool = False
    ) -> None:
        self.pixels = pixels
        self.min_visible = min_visible
        self.class_hues = class_hues
        self.objects: list[tuple[int | None, tuple[float, float, float, float], int]] = []
        self._visible: list[NDArray[np.bool_]] = []

    def place(self, label: int | None, points: Points, rng: np.random.Generator) -> bool:
        """Draw a shape in front; False, and nothing drawn, if it would hide too much."""
        height, width = self.pixels.shape[:2]
        cover = _coverage(points, (height, width))
        solid = cover > 0.5
        for (other, _, area), visible in zip(self.objects, self._visible, strict=True):
            if other is not None and (visible & ~solid).sum() < self.min_visible * area:
                return False
        left, top = np.clip(points.min(axis=0), 0, (width, height))
        right, bottom = np.clip(points.max(axis=0), 0, (width, height))
        box = (float(left), float(top), float(right - left), float(bottom - top))
        self._visible = [visible & ~solid for visible in self._visible]
        self._visible.append(solid)
        self.objects.append((label, box, int(solid.sum())))
        self._paint(cover, solid, label if self.class_hues else None, rng)
        return True

    def _paint(
        self,
        cover: NDArray[np.float64],
        solid: NDArray[np.bool_],
        hue_of: int | None,
        rng: np.random.Generator,
    ) -> None:
        behind = self.pixels[solid].mean(axis=0) if solid.any() else np.zeros(3)
        for _ in range(_PLACEMENT_TRIALS):
            colour = rng.uniform(0, 255, 3) if hue_of is None else _class_colour(hue_of, rng)
            if np.linalg.norm(colour - behind) >= _MIN_CONTRAST:
                break
        height, width = cover.shape
        angle = rng.uniform(0, 2 * math.pi)
        rows, columns = np.mgrid[0:height, 0:width] / max(height, width) - 0.5
        shade = 40 * (math.cos(angle) * columns + math.sin(angle) * rows)
        filled = colour + shade[:, :, None]
        self.pixels += cover[:, :, None] * (filled - self.pixels)


def _class_colour(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A vivid RGB colour, 0..255, from the class's part of the colour circle."""
    hue = (label + rng.uniform(-0.25, 0.25)) / len(CLASSES) % 1.0
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0)))


def _coverage(points: Points, size: tuple[int, int]) -> NDArray[np.float64]:
    """(H, W) fraction of each pixel that the outline covers.

    Drawn at four times the size and averaged: OpenCV's own anti-aliasing widens outlines.
    """
    import cv2

    cover = np.zeros(size)
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, size[::-1])
    width, height = int(right - left), int(bottom - top)
    fine = np.zeros((height * _FINER, width * _FINER), np.uint8)
    # OpenCV counts from pixel centres, in steps of 2^-_SHIFT.
    local = (points - (left, top)) * _FINER - 0.5
    cv2.fillPoly(fine, [np.rint(local * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
    coarse = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    cover[top:bottom, left:right] = coarse / 255.0
    return cover


def _background(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise at several scales, and often stripes, around a random colour."""
    import cv2

    height, width = size
    pixels: NDArray[np.float64] = np.zeros((height, width, 3)) + rng.uniform(60, 195, 3)
    for cells, strength in ((2, 45.0), (6, 25.0), (20, 18.0)):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        pixels += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.04, 0.15) * min(size)
        rows, columns = np.mgrid[0:height, 0:width]
        along = math.cos(angle) * columns + math.sin(angle) * rows
        stripes = np.sin(2 * math.pi * along / period)
        pixels += stripes[:, :, None] * rng.uniform(8, 22) * rng.uniform(-1, 1, 3)
    return np.asarray(np.clip(pixels, 0, 255))
