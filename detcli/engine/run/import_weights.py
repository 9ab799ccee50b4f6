"""`detcli weights import`: a public checkpoint becomes one of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detcli.engine.run import checkpoint
from detcli.engine.run.build import build_model
from detcli.engine.run.class_rows import with_classes
from detcli.errors import CheckpointError
from detcli.recipe import Recipe, load_recipe
from detcli.weights import SOURCES, PublicWeights, SourceFacts
from detcli.weights.torchvision import coco_ids, coco_names

# The shipped recipe whose architecture a toolbox's published checkpoints have.
RECIPES = {
    ("mmdetection", "retinanet"): "retinanet_r50",
    ("mmdetection", "atss"): "atss_r50",
    ("mmdetection", "fcos"): "fcos_r50_caffe",
    ("mmdetection", "fcoscenter"): "fcos_r50_caffe_center",
    ("mmdetection", "vfnet"): "vfnet_r50",
    ("mmdetection", "vfnetmdconv"): "vfnet_r50_mdconv_2x",
    ("mmdetection", "nas_fcos"): "nas_fcos_r50_caffe",
    ("mmdetection", "ga_retinanet"): "ga_retinanet_r50_caffe",
    ("torchvision", "retinanet"): "retinanet_r50_torchvision",
    ("torchvision", "fcos"): "fcos_r50_torchvision",
    ("mmdetection", "ssd300"): "ssd300",
    ("mmdetection", "ssd512"): "ssd512",
    ("torchvision", "ssd300"): "ssd300_torchvision",
    ("mmdetection", "centernet"): "centernet_r18",
    ("mmdetection", "centernetdcnv2"): "centernet_r18_dcnv2",
    ("mmdetection", "faster_rcnn"): "faster_rcnn_r50",
    ("mmdetection", "faster_rcnndcnv2"): "faster_rcnn_r50_dcnv2",
    ("mmdetection", "faster_rcnncarafe"): "faster_rcnn_r50_carafe",
    ("mmdetection", "faster_rcnnpafpn"): "faster_rcnn_r50_pafpn",
    ("mmdetection", "faster_rcnnhrnet18"): "faster_rcnn_hrnetv2p_w18",
    ("mmdetection", "faster_rcnnhrnet32"): "faster_rcnn_hrnetv2p_w32",
    ("mmdetection", "ga_faster_rcnn"): "ga_faster_rcnn_r50_caffe",
    ("mmdetection", "cascade_rcnn"): "cascade_rcnn_r50",
    ("torchvision", "faster_rcnn"): "faster_rcnn_r50_torchvision",
    ("centernet", "centernet"): "centernet_r18_dcn_xingyizhou",
    ("centernet", "centernetdla34"): "centernet_dla34",
    ("tianxiaomo", "yolov4"): "yolov4",
    ("darknet", "yolov4"): "yolov4",
    ("detr", "detr"): "detr_r50",
    ("transformers", "detr"): "detr_r50",
    ("mmdetection", "detr"): "detr_r50_150e",
    **{
        (source, f"deformable_detr{variant}"): f"deformable_detr_r50{variant}"
        for source in ("deformable-detr", "transformers", "mmdetection")
        for variant in ("", "_refine", "_two_stage")
    },
}


@dataclass(frozen=True)
class Imported:
    """What was imported, and where it is now."""

    path: Path
    recipe: Recipe
    num_tensors: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def import_weights(
    file: Path,
    source: str,
    *,
    recipe: str | None,
    overrides: Sequence[str],
    classes: Sequence[str] | None,
    to_classes: Sequence[str] | None,
    out: Path,
) -> Imported:
    """Read a public checkpoint, copy its tensors into the recipe's detector, write a checkpoint.

    Without a recipe the shipped one of the same detector and toolbox is taken, at the depth the
    tensors show. classes: names of the file's classes, where it has none; to_classes: those of the
    checkpoint to write (default: data.classes of a recipe that was given, else the file's), whose
    class head is remapped by name. Raises CheckpointError unless every tensor finds its place.
    """
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name another file with --out")
    weights, facts = _recognise(file, source)
    kind = f"{facts.detector}{facts.input_px or ''}{facts.variant or ''}"
    name = recipe or RECIPES.get((source, kind))
    if name is None:
        raise CheckpointError(
            f"{file}: no shipped recipe has its architecture ({kind}); name yours with --recipe"
        )
    fixed = recipe is not None or facts.depth is None
    depth = () if fixed else (f"model.backbone.depth={facts.depth}",)
    loaded = load_recipe(name, [*depth, *overrides]).recipe
    if loaded.model.name != facts.detector:
        raise CheckpointError(
            f"{file}: holds a {facts.detector}, but recipe {loaded.name} is a {loaded.model.name}"
        )
    names, ids = name_classes(facts, classes, file)
    model = build_model(loaded, facts.num_classes, pretrained=False)
    report = SOURCES[source].convert(weights.tensors, model, str(file))
    content: dict[str, Any] = {
        "kind": "weights",
        "recipe": loaded.model_dump(mode="json"),
        "class_names": list(names),
        "category_ids": list(ids),
        "model": model.state_dict(),
    }
    notes = list(report.notes)
    wanted = to_classes or (loaded.data.classes if recipe is not None else None)
    if wanted is not None and list(wanted) != list(names):
        content |= _for_classes(content, loaded, list(wanted), notes.append)
    checkpoint.save(out, content)
    return Imported(out, loaded, len(report.names), tuple(content["class_names"]), tuple(notes))


def _recognise(file: Path, source: str) -> tuple[PublicWeights, SourceFacts]:
    """The file's tensors and what they are of; where they are none of this toolbox's, the error
    names the one whose they are."""
    try:
        weights = SOURCES[source].read(file)
        return weights, SOURCES[source].recognise(weights, str(file))
    except CheckpointError as error:
        for other in SOURCES:
            if other != source and _is_of(file, other):
                raise CheckpointError(f"{error}; try --from {other}") from error
        raise


def _is_of(file: Path, source: str) -> bool:
    try:
        SOURCES[source].recognise(SOURCES[source].read(file), str(file))
    except CheckpointError:
        return False
    return True


def _for_classes(
    content: dict[str, Any], recipe: Recipe, wanted: list[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """What changes in a checkpoint's content with another list of classes."""
    torch.manual_seed(recipe.train.seed)  # of the rows that start fresh
    detector = build_model(recipe, len(wanted), pretrained=False)
    moved = with_classes(content, recipe, detector, wanted, say)
    return {**moved, "category_ids": list(range(1, len(wanted) + 1))}


def name_classes(
    facts: SourceFacts, given: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids: those given, those in the file, or COCO's for 80 classes.

    Raises CheckpointError when none of these fits the width of the class head.
    """
    names = tuple(given) if given else facts.class_names
    if names is None and facts.num_classes == len(coco_ids()):
        names = coco_names()
    if names is None or len(names) != facts.num_classes:
        have = "no class names" if names is None else f"{len(names)} class names"
        raise CheckpointError(
            f"{file}: the class head has {facts.num_classes} classes, but there are {have}; "
            "give them in order with --classes a,b,c"
        )
    ids = coco_ids() if names == coco_names() else range(1, len(names) + 1)
    return names, tuple(ids)
