"""Names beside the points of a scatter plot, none over another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_SIZE_PT = 8.5
_POINT_PX = 9.0  # half the side of the square that a point keeps free
# Directions from the point, most legible first; then the same farther away.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES_PX = (12, 24, 38, 54, 70, 90, 112, 136)

_Box = tuple[float, float, float, float]  # left, low, right, high, pixels


class _Place(NamedTuple):
    """Lower left corner relative to the point, the box filled, and whether it is right beside."""

    offset: tuple[float, float]
    box: _Box
    beside: bool


def place_labels(
    figure: Any, axis: Any, points: Sequence[tuple[float, float]], names: Sequence[str]
) -> None:
    """Write each name near its point, clear of other names and of points.

    A name that is not right beside its point is joined to it by a line; one that finds no free
    place stands at the nearest. Limits and scales of the axis must be final.
    """
    figure.draw_without_rendering()
    places = axis.transData.transform(points) if len(points) else []
    taken = [(x - _POINT_PX, y - _POINT_PX, x + _POINT_PX, y + _POINT_PX) for x, y in places]
    frame = axis.get_window_extent().extents
    halo = {"color": "white", "alpha": 0.7, "pad": 0.3}
    for (x, y), point, name in zip(places, points, names, strict=True):
        text = axis.annotate(
            name,
            point,
            (0, 0),
            textcoords="offset points",
            size=_SIZE_PT,
            va="bottom",
            zorder=4,
            bbox=halo,
        )
        size = text.get_window_extent()
        candidates = list(_candidates(x, y, size.width, size.height))
        candidates = [place for place in candidates if _inside(place.box, frame)] or candidates
        free = [place for place in candidates if not any(_overlap(place.box, t) for t in taken)]
        chosen = (free or candidates)[0]
        text.set_position([length * 72 / figure.dpi for length in chosen.offset])
        taken.append(chosen.box)
        if not chosen.beside:
            left, low, right, high = chosen.box
            near = (min(max(x, left), right), min(max(y, low), high))
            end = axis.transData.inverted().transform(near)
            axis.plot([point[0], end[0]], [point[1], end[1]], color="0.4", linewidth=0.8)


def _candidates(x: float, y: float, width: float, height: float) -> Iterator[_Place]:
    for distance in _DISTANCES_PX:
        for across, up in _DIRECTIONS:
            left = across * distance - width * (1 - across) / 2
            low = up * distance - height * (1 - up) / 2
            box = (x + left, y + low, x + left + width, y + low + height)
            yield _Place((left, low), box, distance == _DISTANCES_PX[0] and up == 0)


def _inside(box: _Box, frame: Sequence[float]) -> bool:
    left, low, right, high = box
    return frame[0] <= left and frame[1] <= low and right <= frame[2] and high <= frame[3]


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
