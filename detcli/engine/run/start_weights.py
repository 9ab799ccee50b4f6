"""Start from the weights of another run; this is no resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from detcli.engine.run.checkpoint import weights_of
from detcli.errors import CheckpointError
from detcli.models.backbones.pretrained import starts_fresh
from detcli.models.detector import Detector

NAMED = 5  # tensors named in a message before "and N more"


def load_weights(detector: Detector, content: dict[str, Any], say: Callable[[str], None]) -> None:
    """Copy the tensors of a checkpoint that fit; say what was kept and what starts fresh.

    Tensors of another shape start fresh (for class heads see `with_classes`), and so do
    attention, offsets, CARAFE, implicit knowledge, an IoU branch and an auxiliary head that are
    here and were not there. Raises CheckpointError when the checkpoint is of another detector:
    names that do not match.
    """
    weights, own = weights_of(content), detector.state_dict()
    missing = [name for name in own if name not in weights and not _is_added(name)]
    foreign = [name for name in weights if name not in own]
    if missing or foreign:
        raise CheckpointError(
            f"the weights are of another detector ({content['recipe']['model']['name']}): "
            f"missing {_some(missing)}; not in this model {_some(foreign)}"
        )
    reshaped = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    fresh = [*reshaped, *(name for name in own if name not in weights)]
    detector.load_state_dict({name: own[name] if name in fresh else weights[name] for name in own})
    say(f"weights: {len(own) - len(fresh)} tensors loaded; randomly initialised: {_some(fresh)}")


def _is_added(name: str) -> bool:
    """Whether this tensor belongs to a part that is put beside the rest of a network."""
    beside = (
        *("neck.upsample.", "neck.aspp.", "neck.downsample.", "neck.bottom_up."),
        *("head.iou.", "head.sigma.", "head.density.", "rpn.density.", "auxiliary."),
    )
    added = name.startswith(beside) or name.endswith((".add", ".multiply"))
    return added or starts_fresh(name)


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
