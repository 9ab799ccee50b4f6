"""The networks of xingyizhou/CenterNet, written plainly over the names of their state dicts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import resnet18
from torchvision.ops import deform_conv2d


class Weights(dict):
    """A public state dict that comes into being as a plain network asks for its tensors."""

    def __init__(self, given: dict[str, Tensor] | None = None) -> None:
        super().__init__(given or {})
        self.generator = torch.Generator().manual_seed(0)

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.2
            self[name] = torch.randn(*shape, generator=self.generator) * scale
            if name.endswith("running_var"):
                self[name] = 1 + self[name].abs()
        return self[name]

    def conv(self, x: Tensor, name: str, out: int, side: int, *, stride: int = 1, bias=False):
        weight = self.get(f"{name}.weight", out, x.shape[1], side, side)
        shift = self.get(f"{name}.bias", out) if bias else None
        return F.conv2d(x, weight, shift, stride, padding=side // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = [
            self.get(f"{name}.{part}", x.shape[1])
            for part in ("running_mean", "running_var", "weight", "bias")
        ]
        self.setdefault(f"{name}.num_batches_tracked", torch.tensor(3))
        return F.batch_norm(x, *parts)

    def dcn(self, x: Tensor, name: str, out: int) -> Tensor:
        codes = self.conv(x, f"{name}.conv_offset_mask", 27, 3, bias=True)
        weight = self.get(f"{name}.weight", out, x.shape[1], 3, 3)
        shift = self.get(f"{name}.bias", out)
        return deform_conv2d(
            x, codes[:, :18], weight, shift, padding=1, mask=codes[:, 18:].sigmoid()
        )

    def heads(self, x: Tensor, channels: int, num_classes: int) -> list[Tensor]:
        found = []
        for name, outputs in (("hm", num_classes), ("wh", 2), ("reg", 2)):
            hidden = self.conv(x, f"{name}.0", channels, 3, bias=True).relu()
            found.append(self.conv(hidden, f"{name}.2", outputs, 1, bias=True))
        return found


def block(w: Weights, x: Tensor, residual: Tensor, name: str, out: int, stride: int) -> Tensor:
    y = w.norm(w.conv(x, f"{name}.conv1", out, 3, stride=stride), f"{name}.bn1").relu()
    return (w.norm(w.conv(y, f"{name}.conv2", out, 3), f"{name}.bn2") + residual).relu()


def tree(w: Weights, x: Tensor, name: str, levels: int, out: int, stride: int, children) -> Tensor:
    """children: maps for the root; the projections of deeper trees are made but not used."""
    bottom = F.max_pool2d(x, stride) if stride > 1 else x
    residual = bottom
    if x.shape[1] != out:
        projected = w.conv(bottom, f"{name}.project.0", out, 1)
        residual = w.norm(projected, f"{name}.project.1")
    if levels == 2:
        first = tree(w, x, f"{name}.tree1", 1, out, stride, [])
        return tree(w, first, f"{name}.tree2", 1, out, 1, [*children, first])
    first = block(w, x, residual, f"{name}.tree1", out, stride)
    second = block(w, first, first, f"{name}.tree2", out, 1)
    joined = torch.cat([second, first, *children], dim=1)
    return w.norm(w.conv(joined, f"{name}.root.conv", out, 1), f"{name}.root.bn").relu()


def ida(w: Weights, maps: list[Tensor], name: str, out: int, factors: list[int]) -> list[Tensor]:
    found = [maps[0]]
    for index, (x, factor) in enumerate(zip(maps[1:], factors, strict=True), start=1):
        y = w.dcn(x, f"{name}.proj_{index}.conv", out)
        y = w.norm(y, f"{name}.proj_{index}.actf.0").relu()
        weight = w.get(f"{name}.up_{index}.weight", out, 1, 2 * factor, 2 * factor)
        y = F.conv_transpose2d(y, weight, stride=factor, padding=factor // 2, groups=out)
        y = w.dcn(y + found[-1], f"{name}.node_{index}.conv", out)
        found.append(w.norm(y, f"{name}.node_{index}.actf.0").relu())
    return found


def plain_dla(w: Weights, x: Tensor) -> list[Tensor]:
    """The maps of strides 4 to 32, names below base."""
    x = w.norm(w.conv(x, "base.base_layer.0", 16, 7), "base.base_layer.1").relu()
    x = w.norm(w.conv(x, "base.level0.0", 16, 3), "base.level0.1").relu()
    x = w.norm(w.conv(x, "base.level1.0", 32, 3, stride=2), "base.level1.1").relu()
    maps = []
    for level, (depth, out) in enumerate([(1, 64), (2, 128), (2, 256), (1, 512)], start=2):
        children = [F.max_pool2d(x, 2)] if level > 2 else []
        x = tree(w, x, f"base.level{level}", depth, out, 2, children)
        maps.append(x)
    return maps


def plain_dla_34(w: Weights, x: Tensor, num_classes: int) -> list[Tensor]:
    maps = plain_dla(w, x)
    first = ida(w, maps[2:], "dla_up.ida_0", 256, [2])
    second = ida(w, [maps[1], *first], "dla_up.ida_1", 128, [2, 2])
    third = ida(w, [maps[0], *second], "dla_up.ida_2", 64, [2, 2, 2])
    last = ida(w, [third[-1], second[-1], first[-1]], "ida_up", 64, [2, 4])[-1]
    return w.heads(last, 256, num_classes)


def plain_resdcn(w: Weights, x: Tensor, num_classes: int) -> list[Tensor]:
    trunk = resnet18(weights=None).eval()
    trunk.load_state_dict({name: w[name] for name in trunk.state_dict() if name in w}, strict=False)
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
    x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))
    for step, out in enumerate((256, 128, 64)):
        base = 6 * step
        x = w.norm(w.dcn(x, f"deconv_layers.{base}", out), f"deconv_layers.{base + 1}").relu()
        weight = w.get(f"deconv_layers.{base + 3}.weight", out, out, 4, 4)
        x = F.conv_transpose2d(x, weight, stride=2, padding=1)
        x = w.norm(x, f"deconv_layers.{base + 4}").relu()
    return w.heads(x, 64, num_classes)
