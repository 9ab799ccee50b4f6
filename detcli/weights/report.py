"""Copy renamed tensors into a model, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detcli.errors import CheckpointError
from detcli.text import nearest
from detcli.weights.names import ConversionReport

NAMED = 5  # tensors named in a message before "and N more"


def copy_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state`, which must have exactly the model's names and shapes.

    Raises CheckpointError that names what is missing, unknown (with its shape and the nearest
    name here) or of another shape; the model is then unchanged.
    """
    own = model.state_dict()
    free = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    problems = [
        f"{name} {shape(state[name])} is unexpected"
        + (_nearest(name, own, free) if index < NAMED else "")
        for index, name in enumerate(unknown)
    ]
    problems += [
        f"{name} {shape(value)} is missing" for name, value in own.items() if name not in state
    ]
    problems += [
        f"{name} is {shape(state[name])}, expected {shape(value)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit this model: {some(problems)}; check depth, neck, head and "
            "number of classes"
        )
    model.load_state_dict(state)


def copy_renamed(
    tensors: Mapping[str, Tensor], model: nn.Module, where: str, rename: Callable[[str], str]
) -> ConversionReport:
    """`copy_state` of tensors as they are, each under the name that `rename` gives it."""
    names = {name: rename(name) for name in tensors}
    copy_state(model, {own: tensors[name] for name, own in names.items()}, where)
    return ConversionReport(names, ())


def keep_eps(state: dict[str, Tensor], model: nn.Module, eps: float, where: str) -> None:
    """Make batch norms that were trained with `eps` compute the same with the model's own eps.

    Only variance + eps counts, so the running variances in `state` take up the difference.
    Raises CheckpointError when that could make one negative.
    """
    for name, module in model.named_modules():
        key = f"{name}.running_var"
        if not isinstance(module, _BatchNorm) or module.eps == eps or key not in state:
            continue
        if module.eps > eps:
            raise CheckpointError(
                f"{where}: its norms have eps {eps:g}, this model's {module.eps:g}; set "
                f"model.backbone.norm_eps to {eps:g}"
            )
        state[key] = (state[key].double() + (eps - module.eps)).to(state[key].dtype)


def shape(value: Tensor) -> str:
    """A tensor's shape as in [256, 64, 1, 1]."""
    return str(list(value.shape))


def some(parts: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = f"; and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return "; ".join(parts[:NAMED]) + more


def _nearest(name: str, own: Mapping[str, Tensor], free: Sequence[str]) -> str:
    close = nearest(name, free)
    return f" (nearest: {close} {shape(own[close])})" if close else ""
