"""Move the rows of a class head from one list of classes to another, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detcli.engine.run.build import build_model
from detcli.engine.run.checkpoint import weights_of
from detcli.models.detector import Detector
from detcli.recipe import Recipe

TABLE_ROWS = 30  # classes that the table names one by one


class ClassRows(NamedTuple):
    """Where the classes stand in the first axis of a tensor of R rows.

    R = groups * (before + per_class * C + after), group by group: `before` rows of something else
    (YOLO's box and objectness), `per_class` rows of each class, `after` rows (the background).
    """

    groups: int
    before: int
    per_class: int
    after: int

    def move(self, own: Tensor, source: Tensor, origin: Sequence[int | None]) -> Tensor:
        """`own` (R, ...) with the rows of `source` (R', ...): class c takes those of class
        origin[c] there, or keeps its own where that is None; other rows are all taken."""
        moved = own.clone().view(self.groups, -1, *own.shape[1:])
        rows = source.reshape(self.groups, -1, *source.shape[1:])
        moved[:, : self.before] = rows[:, : self.before]
        if self.after:
            moved[:, -self.after :] = rows[:, -self.after :]
        for here, there in enumerate(origin):
            if there is not None:
                moved[:, self._of(here)] = rows[:, self._of(there)]
        return moved.view_as(own)

    def size(self, num_classes: int) -> int:
        """R for this many classes."""
        return self.groups * (self.before + self.per_class * num_classes + self.after)

    def _of(self, index: int) -> slice:
        start = self.before + index * self.per_class
        return slice(start, start + self.per_class)


def class_rows(recipe: Recipe) -> dict[str, ClassRows]:
    """The tensors of this recipe's detector that depend on the classes, by name."""
    with torch.device("meta"):  # shapes alone
        two, three = (build_model(recipe, n, pretrained=False).state_dict() for n in (2, 3))
    return {
        name: _layout(name, len(value), len(three[name]))
        for name, value in two.items()
        if value.shape != three[name].shape
    }


def with_classes(
    content: dict[str, Any],
    recipe: Recipe,
    detector: Detector,
    class_names: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """A checkpoint's content for another list of classes: what its class head knows of those with
    the same name (upper and lower case are one) is kept, the others start as in `detector`.

    The table of what was kept is said. Content with these classes in this order stays as it is.
    """
    known = list(content["class_names"])
    if known == list(class_names):
        return content
    numbers = {name.casefold(): number for number, name in reversed(list(enumerate(known)))}
    origin = [numbers.get(name.casefold()) for name in class_names]
    weights, own = dict(weights_of(content)), detector.state_dict()
    for name, rows in class_rows(recipe).items():
        if name in weights and len(weights[name]) == rows.size(len(known)):
            weights[name] = rows.move(own[name], weights[name].to(own[name]), origin)
    for line in _table(known, class_names, origin):
        say(line)
    kept = {key: value for key, value in content.items() if key in ("kind", "recipe")}
    return {**kept, "class_names": list(class_names), "model": weights}


def _layout(name: str, two: int, three: int) -> ClassRows:
    """From the number of rows with two classes and with three."""
    step = three - two
    rest = two - 2 * step
    if ".class_logits." in name:  # one row per class and anchor, then the background
        return ClassRows(step, 0, 1, rest // step)
    if ".prediction." in name:  # YOLO: box and objectness first
        return ClassRows(step, rest // step, 1, 0)
    return ClassRows(1, 0, step, rest)  # numbers of each class, as class-specific boxes


def _table(
    known: Sequence[str], class_names: Sequence[str], origin: Sequence[int | None]
) -> list[str]:
    num_kept = sum(number is not None for number in origin)
    lines = [
        f"weights: the class lists differ: {num_kept} of {len(class_names)} classes are kept by "
        f"name, {len(class_names) - num_kept} randomly initialised; "
        f"{len(known) - len(set(origin) - {None})} of the checkpoint's {len(known)} are not used"
    ]
    width = max(map(len, class_names))
    for name, number in list(zip(class_names, origin, strict=True))[:TABLE_ROWS]:
        source = "random" if number is None else f"kept, class {number + 1} of the checkpoint"
        lines.append(f"  {name:<{width}}  {source}")
    if len(class_names) > TABLE_ROWS:
        lines.append(f"  and {len(class_names) - TABLE_ROWS} more")
    return lines
