"""Reading the parity fixtures: weights by name, the batch, and sampled arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detcli.types import Candidates, Target
from tests.fixtures import name_seeded
from tests.paths import PARITY

# of the largest value, and relative; those of the fixtures' own README
RAW_LIMIT, LOSS_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-4, 1e-3


class Fixture:
    """One reference model's numbers."""

    def __init__(self, name: str) -> None:
        arrays = name_seeded.state_dict(PARITY / f"{name}.keys.txt")
        self.arrays = dict(np.load(PARITY / f"{name}.npz"))
        assert name_seeded.crc(arrays) == int(self.arrays["state_crc32"])
        self.state = {key: torch.from_numpy(value) for key, value in arrays.items()}
        sizes = [tuple(map(int, size)) for size in self.arrays["valid_hw"]]
        self.sizes: list[tuple[int, int]] = sizes  # type: ignore[assignment]
        self.images = torch.from_numpy(name_seeded.images(sizes))
        self.targets = [
            Target(
                torch.from_numpy(self.arrays[f"gt/{image}/boxes"]).float().reshape(-1, 4),
                torch.from_numpy(self.arrays[f"gt/{image}/labels"]).long().reshape(-1),
                torch.zeros(0, 4),
                size,
            )
            for image, size in enumerate(self.sizes)
        ]

    def error(self, name: str, mine: Tensor) -> float:
        """Largest difference from a stored array, as a share of its largest value."""
        return relative_error(self.arrays, name, mine)

    def check_levels(self, name: str, levels: Sequence[Tensor]) -> None:
        """Maps or predictions of each level."""
        for index, level in enumerate(levels):
            assert self.error(f"{name}/{index}", level) < RAW_LIMIT, (name, index)

    def check_losses(self, losses: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        """Each term, `names` says what it is called here, and their sum."""
        for name, value in losses.items():
            want = float(self.arrays[f"loss/{names[name]}"])
            assert value.item() == pytest.approx(want, rel=LOSS_LIMIT), name
        total = float(self.arrays["loss/total"])
        assert sum(losses.values()).item() == pytest.approx(total, rel=LOSS_LIMIT)

    def check_gradients(
        self, model: nn.Module, parts: Mapping[str, str], names: Mapping[str, str]
    ) -> None:
        """Norms of the gradients of each part and of each parameter; parts and names: what they
        are called here -> there."""
        parameters = dict(model.named_parameters())
        for theirs, ours in parts.items():
            squares = [
                value.grad.double().square().sum().item()
                for name, value in parameters.items()
                if name.startswith(f"{ours}.") and value.requires_grad
            ]
            want = float(self.arrays[f"grad/{theirs}"])
            assert math.sqrt(sum(squares)) == pytest.approx(want, rel=GRADIENT_LIMIT), theirs
        norms = self.arrays["grad_param/norms"]
        floor = 1e-6 * float(np.nanmax(norms))
        for name, want in zip(map(str, self.arrays["grad_param/names"]), norms, strict=True):
            parameter = parameters[names[name]]
            if np.isnan(want):
                assert not parameter.requires_grad, name
                continue
            grad = parameter.grad
            if name.endswith(".scale"):  # a number per level there, one vector here
                grad = grad[int(name.split(".")[2])]
            got = grad.double().norm().item()
            assert got == pytest.approx(want, rel=GRADIENT_LIMIT, abs=floor), name

    def check_boxes(self, found: Sequence[Candidates], iou_threshold: float) -> None:
        """The best 100 candidates of each image after suppression by class."""
        for image, candidates in enumerate(found):
            boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
            keep = torch.cat(
                [
                    rows[nms(boxes[rows], scores[rows], iou_threshold)]
                    for label in labels.unique()
                    for rows in [(labels == label).nonzero().squeeze(1)]
                ]
            )
            keep = keep[scores[keep].argsort(descending=True)][:100]
            arrays = [self.arrays[f"pred/{image}/{name}"] for name in ("boxes", "scores", "labels")]
            want = [torch.from_numpy(array) for array in arrays]
            got = (boxes[keep], scores[keep], labels[keep])
            assert num_agreeing((want[0], want[1], want[2]), got) >= 98


def relative_error(arrays: dict[str, np.ndarray], name: str, mine: Tensor) -> float:
    """Largest difference from a stored array, whole or sampled, as a share of its largest value."""
    got = mine.detach().float().numpy()
    if name in arrays:
        want = arrays[name]
        assert want.shape == got.shape, (name, want.shape, got.shape)
    else:
        assert tuple(arrays[f"{name}.shape"]) == got.shape
        want = arrays[f"{name}.val"]
        got = got.ravel()[arrays[f"{name}.idx"]]
    return float(np.abs(want - got).max() / max(np.abs(want).max(), 1e-12))


def num_agreeing(want: tuple[Tensor, Tensor, Tensor], got: tuple[Tensor, Tensor, Tensor]) -> int:
    """How many of the wanted boxes (N, 4), scores (N,), labels (N,) have a partner of the same
    label, score (1e-4) and place (0.05 pixel): equal scores may swap their order."""
    corner = (want[0][:, None] - got[0][None]).abs().amax(dim=2)
    score = (want[1][:, None] - got[1][None]).abs()
    same_label = want[2][:, None] == got[2][None]
    return int((same_label & (corner < 0.05) & (score < 1e-4)).any(dim=1).sum())
