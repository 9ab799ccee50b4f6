"""The sections `train`, `postprocess` and `eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from detcli.recipe.section import Section


class Ema(Section):
    """Moving average of the weights; evaluation and best.pt use it."""

    decay: float = Field(0.9998, gt=0, lt=1, description="Decay per step after the warm-up")
    warmup_steps: int = Field(
        2000, gt=0, description="The decay at step t is decay x (1 - exp(-t / warmup_steps))"
    )


class Train(Section):
    """The training loop."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, data order, augmentation")
    amp: Literal["none", "bf16", "fp16"] = Field("none", description="Precision of autocast")
    channels_last: bool = Field(False, description="Memory format of images and convolutions")
    accumulate: int = Field(1, gt=0, description="Batches per optimiser step")
    ema: Ema | None = Field(None, description="Moving average of the weights; null: off")
    val_loss: bool = Field(False, description="Also compute the losses on the validation split")
    eval_every: int = Field(1, ge=0, description="Epochs between evaluations; 0: only at the end")
    log_every: int = Field(50, gt=0, description="Steps between log lines")
    save_every: int | None = Field(
        None, gt=0, description="Steps between extra checkpoints inside an epoch; null: none"
    )
    cudnn_benchmark: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: on only where the input shapes are fixed"
    )


class Postprocess(Section):
    """From candidates to detections. A key that not every method has is null for the method's own
    default."""

    chooser: ClassVar[str] = "method"
    acts_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "metric": ("nms", "soft", "weighted", "matrix", "iou_guided", "softer", "adaptive"),
        "kind": ("soft", "softer", "adaptive"),
        "kernel": ("matrix",),
        "sigma": ("soft", "matrix", "softer", "adaptive"),
        "score_threshold": ("soft", "matrix", "softer", "adaptive"),
        "sigma_t": ("softer",),
        "conf_type": ("wbf",),
        "skip_box_threshold": ("wbf", "nmw"),
        "allows_overflow": ("wbf",),
    }

    method: Literal[
        "nms", "soft", "diou", "weighted", "wbf", "nmw", "matrix", "iou_guided", "softer",
        "adaptive",
    ] = Field("nms", description="Suppression method")  # fmt: skip
    iou_threshold: float = Field(
        0.6, ge=0, le=1, description="A box that overlaps a better one by more is dropped"
    )
    class_agnostic: bool = Field(
        False, description="Boxes of different classes suppress each other"
    )
    max_per_image: int = Field(100, gt=0, description="Best detections kept per image")
    metric: Literal["iou", "diou"] | None = Field(
        None, description="Overlap; diou: less the distance of the centres"
    )
    kind: Literal["hard", "gaussian", "linear"] | None = Field(
        None, description="How scores of overlapping boxes fall; hard: the boxes are dropped"
    )
    kernel: Literal["gaussian", "linear"] | None = Field(
        None, description="matrix: how scores fall with overlap"
    )
    sigma: float | None = Field(None, gt=0, description="Width of the gaussian in overlap")
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="Boxes whose score falls below are dropped"
    )
    sigma_t: float | None = Field(
        None, gt=0, description="softer: how near a box must be to have a vote"
    )
    conf_type: Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"] | None = Field(
        None, description="wbf: score of a fused box"
    )
    skip_box_threshold: float | None = Field(
        None, ge=0, le=1, description="Boxes scored lower are left out of the fusion"
    )
    allows_overflow: bool | None = Field(
        None, description="wbf: more boxes than models may raise a score above its mean"
    )


class Eval(Section):
    """Evaluation during and after training."""

    metric: Literal["coco"] = Field("coco", description="COCO's twelve numbers")
    batch_per_rank: int = Field(1, gt=0, description="Images per process and step")
    split: Literal["train", "val", "test"] = Field("val", description="The split to evaluate")
