"""Settings of transformers' DETR and Deformable DETR with random weights. The library is no
dependency of the project: a test that imports this module is skipped where it is absent."""

from __future__ import annotations

from typing import Any

import pytest

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed beside the project"
)


def backbone_config(stages: list[str]) -> dict[str, Any]:
    """A ResNet-18 that is neither timm's nor downloaded."""
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": transformers.ResNetConfig(
            layer_type="basic",
            depths=[2, 2, 2, 2],
            hidden_sizes=[64, 128, 256, 512],
            out_features=stages,
        ),
    }


def detr_config(**changes: Any) -> Any:
    return transformers.DetrConfig(**backbone_config(["stage4"]), **changes)


def deformable_config(**changes: Any) -> Any:
    backbone = backbone_config(["stage2", "stage3", "stage4"])
    return transformers.DeformableDetrConfig(**backbone, **changes)
