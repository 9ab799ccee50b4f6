"""What each query of a set predictor (DETR) gives: a class and a box.

Letters: B images, Q queries, D channels, K outputs of the classifier.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

NUM_LAYERS = 3  # of the box branch


class BoxBranch(nn.Module):
    """Three linear layers with ReLUs between them, to four numbers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        outputs = [channels] * (NUM_LAYERS - 1) + [4]
        self.layers = nn.ModuleList(nn.Linear(channels, width) for width in outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, 4) from (B, Q, D)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


class SetHead(nn.Module):
    """Class logits by a linear layer, and a `BoxBranch`."""

    def __init__(self, channels: int, num_outputs: int) -> None:
        super().__init__()
        self.class_logits = nn.Linear(channels, num_outputs)
        self.box = BoxBranch(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, Q, K) and four numbers (B, Q, 4) of queries (B, Q, D)."""
        return self.class_logits(x), self.box(x)
