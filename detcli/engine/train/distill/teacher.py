"""Knowledge distillation: a trained detector, the teacher, is imitated beside the objects.

Letters: B images, C classes, A anchors per cell, D channels, N objects; h, w cells of a level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.engine.detect.load import Trained, load_trained
from detcli.engine.run import checkpoint
from detcli.engine.run.batch import autocast
from detcli.engine.run.distributed import Ranks
from detcli.engine.train.distill.student import OutputsAndMaps, Student, outputs_and_maps
from detcli.errors import CheckpointError
from detcli.ops.reduce import all_rank_mean
from detcli.phases import phase
from detcli.recipe import Recipe
from detcli.types import Target


@dataclass
class Distillation:
    """The teacher, and what a student learns from it.

    recipe: the student's; student: the detector with its adapters; fingerprint: of the teacher's
    file, so that a resumed run can tell whether it is the same teacher.
    """

    recipe: Recipe
    teacher: Trained
    student: Student
    fingerprint: str

    def losses(
        self, detector: nn.Module, seen: OutputsAndMaps, images: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The terms of the detector, and what the teacher adds; seen: by the student."""
        losses: dict[str, Tensor] = detector.loss(seen.outputs, targets)  # type: ignore[operator]
        with phase("teacher"):
            return losses | self.imitation(seen, images, targets)

    def imitation(
        self, seen: OutputsAndMaps, images: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Terms "distill_class" and "distill_features", float32 scalars with their weights, those
        that the recipe asks for; seen: by the student, of the same images."""
        settings = self.recipe.train.distill
        assert settings is not None, "a distillation is built from its section"
        with torch.no_grad(), autocast(self.teacher.recipe, images.device):
            theirs, their_maps = outputs_and_maps(
                self.teacher.detector, as_teacher_sees(images, targets, self), maps=bool(seen.maps)
            )
        terms = {}
        if settings.logits_weight:
            loss = class_loss(
                seen.outputs.class_logits,
                theirs.class_logits,
                num_classes=len(self.teacher.class_names),
                temperature=settings.temperature,
            )
            terms["distill_class"] = settings.logits_weight * loss
        if settings.imitates_maps:
            terms["distill_features"] = map_loss(
                seen.maps,
                their_maps,
                targets,
                canvas=(images.shape[-2], images.shape[-1]),
                weights=(settings.feature_weight, settings.background_weight),
            )
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {"adapters": self.student.adapters.state_dict(), "teacher": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError when the teacher is another one than before."""
        if state["teacher"] != self.fingerprint:
            raise CheckpointError(
                f"{self.teacher.path}: the teacher's weights have changed since this run began; "
                "an exact resume needs the same ones"
            )
        self.student.adapters.load_state_dict(state["adapters"])


def load_teacher(where: str, class_names: Sequence[str], ranks: Ranks) -> tuple[Trained, str]:
    """The detector of a run folder or a checkpoint, frozen and in eval mode, and the fingerprint of
    its file.

    Raises CheckpointError when there is none, or when its classes are not those of the data.
    """
    path = checkpoint.find(Path(where))
    teacher = load_trained(str(path), None, (), ranks)
    if list(teacher.class_names) != list(class_names):
        raise CheckpointError(
            f"{path}: the teacher was trained on the classes {', '.join(teacher.class_names)}; "
            f"the data has {', '.join(class_names)}: distillation needs the same in the same order"
        )
    teacher.detector.requires_grad_(False)
    return teacher, hashlib.sha256(path.read_bytes()).hexdigest()


def as_teacher_sees(images: Tensor, targets: Sequence[Target], distill: Distillation) -> Tensor:
    """The student's input (B, 3, H, W) with the teacher's mean, deviation and channel order."""
    mine, theirs = distill.recipe.data, distill.teacher.recipe.data
    if (mine.mean, mine.std, mine.channels) == (theirs.mean, theirs.std, theirs.channels):
        return images
    my_mean, my_std, their_mean, their_std = (
        images.new_tensor(values).view(1, 3, 1, 1)
        for values in (mine.mean, mine.std, theirs.mean, theirs.std)
    )
    pixels = images * my_std + my_mean
    if mine.channels != theirs.channels:
        pixels = pixels.flip(1)
    seen = (pixels - their_mean) / their_std
    for image, target in zip(seen, targets, strict=True):
        image[:, target.size[0] :] = 0  # padding is 0 after normalisation
        image[:, :, target.size[1] :] = 0
    return seen


def class_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, num_classes: int, temperature: float
) -> Tensor:
    """Binary distillation of class logits (B, A * C, h, w), one entry per level (BCKD, Yang et al.
    2023, arXiv 2308.14286): sum of |q - p| x cross entropy of p against q, where p and q are the
    sigmoids of student and teacher.

    temperature divides the logits, and the loss grows by its square (Hinton et al. 2015).
    Deviation: the paper divides by the positives of the assigner, this by the sum over the anchors
    of the teacher's best class probability (Zhou et al. 2022, arXiv 2203.05920), at least 1, which
    needs no assigner.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    objects = torch.zeros_like(total)
    for mine, theirs in zip(student, teacher, strict=True):
        logits, wanted = mine.float() / temperature, (theirs.float() / temperature).sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        total = total + (cross_entropy * (wanted - logits.sigmoid()).abs()).sum()
        scores = theirs.float().sigmoid()
        by_class = scores.view(len(scores), -1, num_classes, *scores.shape[2:])  # (B, A, C, h, w)
        objects += by_class.amax(dim=2).sum()
    return temperature**2 * total / all_rank_mean(objects).clamp(min=1)


def map_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    targets: Sequence[Target],
    *,
    canvas: tuple[int, int],
    weights: tuple[float, float],
) -> Tensor:
    """Half the squared difference of maps (B, D, h, w), averaged over the cells on objects and over
    those off objects, each mean with its weight, and over channels and levels (DeFeat, Guo et al.
    2021, arXiv 2103.14475).

    Cells in the padding of their image take no part. canvas: (height, width) of the batch.
    """
    levels = []
    for mine, theirs in zip(student, teacher, strict=True):
        squared = (mine.float() - theirs.float()).square().mean(dim=1)  # (B, h, w)
        masks = object_cells(targets, (mine.shape[-2], mine.shape[-1]), canvas)
        for weight, mask in zip(weights, masks, strict=True):
            count = all_rank_mean(mask.sum().float()).clamp(min=1)
            levels.append(weight * (squared * mask).sum() / (2 * count))
    return torch.stack(levels).sum() / len(student)


def object_cells(
    targets: Sequence[Target], shape: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(B, h, w) bool twice, for a map of (h, w) cells over the canvas: cells that overlap an object
    of their image, and the image's other cells."""
    on, off = [], []
    for target in targets:
        spans = []
        inside = []
        for axis, (cells, side) in enumerate(zip(shape, canvas, strict=True)):  # y, then x
            edges = torch.arange(cells + 1, device=target.boxes.device) * (side / cells)
            low, high = target.boxes[:, 1 - axis, None], target.boxes[:, 3 - axis, None]
            spans.append((low < edges[1:]) & (high > edges[:-1]))  # (N, cells)
            inside.append(edges[:-1] < target.size[axis])
        valid = inside[0][:, None] & inside[1]  # (h, w)
        covered = (spans[0][:, :, None] & spans[1][:, None]).any(dim=0)
        on.append(covered & valid)
        off.append(~covered & valid)
    return torch.stack(on), torch.stack(off)
