"""Start from the weights of another run; this is no resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from detcli.engine.checkpoint import weights_of
from detcli.errors import CheckpointError

NAMED = 5  # tensors named in a message before "and N more"


def load_weights(
    detector: nn.Module,
    content: dict[str, Any],
    class_names: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Copy the tensors of a checkpoint that fit; say what was kept and what starts fresh.

    Tensors of another shape (class heads of another number of classes) start fresh. Raises
    CheckpointError when the checkpoint is of another detector: names that do not match.
    """
    weights, own = weights_of(content), detector.state_dict()
    missing = [name for name in own if name not in weights]
    foreign = [name for name in weights if name not in own]
    if missing or foreign:
        raise CheckpointError(
            f"the weights are of another detector ({content['recipe']['model']['name']}): "
            f"missing {_some(missing)}; not in this model {_some(foreign)}"
        )
    fresh = [name for name in own if own[name].shape != weights[name].shape]
    detector.load_state_dict({name: own[name] if name in fresh else weights[name] for name in own})
    say(f"weights: {len(own) - len(fresh)} tensors kept; fresh: {_some(fresh)}")
    if list(class_names) != list(content["class_names"]) and not fresh:
        say(
            "weights: the class lists differ but have the same length; the class head goes on "
            f"from {_some(content['class_names'])} to {_some(list(class_names))} in this order"
        )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
