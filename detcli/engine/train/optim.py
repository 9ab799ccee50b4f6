"""Optimisers and their parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detcli.recipe.sections.optim import Optim

OFFSETS = ".conv_offset"
SAMPLING = (".sampling_offsets", ".reference_points")  # of Deformable DETR


def build_optimizer(model: nn.Module, options: Optim, lr: float) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters of `model`.

    lr: in place of the options' base rate. Each group keeps its own multiple of the learning rate
    in `lr_mult`, which the schedule multiplies. The fused kernels do all arithmetic of a parameter
    in one pass: two to four times as fast as the others, equal to rounding.
    """
    parameters = parameter_groups(model, options, lr)
    if options.name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=options.betas, fused=True)
    return torch.optim.SGD(
        parameters, lr=lr, momentum=options.momentum, nesterov=options.nesterov, fused=True
    )


def parameter_groups(model: nn.Module, options: Optim, lr: float) -> list[dict[str, Any]]:
    """Trainable parameters with equal learning rate and decay, one group each.

    `bias_decay` and `bias_lr_mult` concern the biases of convolutions and linear layers, but not
    of those that predict the offsets of deformable convolutions (as in MMDetection); norm scales
    and shifts are under `norm_decay`; what a module lists as `undecayed` never decays. Parts
    under `backbone.` take `backbone_lr_mult`, those that say where deformable attention looks
    `sampling_lr_mult`.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_norm = isinstance(module, nn.GroupNorm | nn.LayerNorm) or hasattr(
                module, "running_mean"
            )
            is_bias = name == "bias" and not is_norm and not module_name.endswith(OFFSETS)
            mult = options.backbone_lr_mult if f"{module_name}.".startswith("backbone.") else 1.0
            mult *= options.sampling_lr_mult if module_name.endswith(SAMPLING) else 1.0
            mult *= options.bias_lr_mult if is_bias else 1.0
            decays = options.norm_decay if is_norm else (options.bias_decay or not is_bias)
            decays = decays and name not in getattr(module, "undecayed", ())
            members.setdefault((mult, options.weight_decay if decays else 0.0), []).append(
                parameter
            )
    return [
        {"params": parameters, "lr": lr * mult, "lr_mult": mult, "weight_decay": decay}
        for (mult, decay), parameters in members.items()
    ]
