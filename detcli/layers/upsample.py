"""Up-sampling of feature maps.

Letters: B images, C channels, K = 25 neighbours of a cell, S = 4 cells that one cell becomes;
H, W cells of the coarse map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcli.layers.conv import Conv2d, zero_bias

# As published for feature pyramids: kernel 5, encoder 3, 64 channels, one group, factor 2.
SIDE = 5
COMPRESSED = 64
FACTOR = 2


class Carafe(nn.Module):
    """Content-aware reassembly of features (CARAFE, arXiv 1905.02188), to twice the size.

    Each fine cell is a weighted mean of the 5 x 5 coarse cells around the one that it lies in;
    the weights are predicted from the map. Beyond the border is 0. At the start the weights are
    all but equal: a 5 x 5 mean.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compress = Conv2d(channels, COMPRESSED, 1)
        self.encode = Conv2d(COMPRESSED, SIDE**2 * FACTOR**2, 3)
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        for conv in (self.compress, self.encode):
            zero_bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        images, channels, height, width = x.shape
        logits = self.encode(self.compress(x))  # (B, K * S, H, W)
        weights = logits.unflatten(1, (SIDE**2, FACTOR**2)).softmax(dim=1).to(x.dtype)
        padded = F.pad(x, (SIDE // 2,) * 4)
        # One neighbour after the other: all of them at once would be 25 copies of the map.
        fine = x.new_zeros(images, FACTOR**2, channels, height, width)
        for index, share in enumerate(weights.unbind(1)):  # (B, S, H, W)
            top, left = divmod(index, SIDE)
            shifted = padded[:, None, :, top : top + height, left : left + width]
            fine.addcmul_(shifted, share[:, :, None])  # (B, S, C, H, W)
        return F.pixel_shuffle(fine.transpose(1, 2).flatten(1, 2), FACTOR)


class DUC(nn.Module):
    """Dense upsampling convolution (arXiv 1702.08502), to twice the size: a 3x3 convolution to four
    maps of C channels, dealt out over the 2 x 2 fine cells of each coarse one.

    At the start every fine cell is a copy of its coarse cell, the nearest neighbour: the kernels of
    the four are equal, which keeps checkerboards out (ICNR, arXiv 1707.02937), and pass the map
    on as it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, FACTOR**2 * channels, 3)
        zero_bias(self.conv)
        with torch.no_grad():
            # output channel S c + s goes to place s of channel c
            for place in range(FACTOR**2):
                nn.init.dirac_(self.conv.weight[place :: FACTOR**2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(x), FACTOR)


UPSAMPLERS: dict[str, type[Carafe | DUC]] = {"carafe": Carafe, "duc": DUC}
