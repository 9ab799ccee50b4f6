"""Settings of transformers' DETR and Deformable DETR with random weights. The library is no
dependency of the project: whoever uses this module skips where it is absent."""

from __future__ import annotations

from typing import Any

import transformers

BLOCKS = {18: ("basic", [2, 2, 2, 2], 64), 50: ("bottleneck", [3, 4, 6, 3], 256)}


def backbone_config(depth: int, stages: list[str]) -> dict[str, Any]:
    """A ResNet that is neither timm's nor downloaded."""
    kind, depths, channels = BLOCKS[depth]
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": transformers.ResNetConfig(
            layer_type=kind,
            depths=depths,
            hidden_sizes=[channels * 2**stage for stage in range(4)],
            out_features=stages,
        ),
    }


def detr_config(depth: int, **changes: Any) -> Any:
    return transformers.DetrConfig(**backbone_config(depth, ["stage4"]), **changes)


def deformable_config(depth: int, **changes: Any) -> Any:
    backbone = backbone_config(depth, ["stage2", "stage3", "stage4"])
    return transformers.DeformableDetrConfig(**backbone, **changes)
