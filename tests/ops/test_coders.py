"""Coders: inverse of each other, and the deltas torchvision uses."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as PeerCoder

from detcli.ops.coders import MAX_LOG_SCALE, BoxCoder, DeltaCoder, DistanceCoder, side_distances
from detcli.ops.priors import Priors


def priors(count: int = 50) -> Priors:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(count, 2, generator=generator) * 100
    half = 4 + 20 * torch.rand(count, 2, generator=generator)
    strides = 2.0 ** torch.randint(3, 8, (count,), generator=generator)
    return Priors(torch.cat([centers - half, centers + half], 1), centers, strides, (count,))


def boxes(count: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 80
    size = 1 + torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + size], dim=1)


CODERS = [
    DeltaCoder(),
    DeltaCoder((0.1, 0.1, 0.2, 0.2)),
    DistanceCoder(stride_units=False),
    DistanceCoder(stride_units=True),
]


@pytest.mark.parametrize("coder", CODERS, ids=lambda coder: type(coder).__name__)
def test_decode_inverts_encode(coder: BoxCoder) -> None:
    encoded = coder.encode(boxes(), priors())
    torch.testing.assert_close(coder.decode(encoded, priors()), boxes(), rtol=1e-5, atol=1e-4)


def test_deltas_are_torchvisions() -> None:
    peer = PeerCoder(weights=(10.0, 10.0, 5.0, 5.0))  # weights are one over our stds
    coder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    encoded = coder.encode(boxes(), priors())
    want = peer.encode_single(boxes(), priors().boxes)
    torch.testing.assert_close(encoded, want, rtol=1e-4, atol=1e-4)
    wild = encoded * 3
    same = wild[:, 2:].abs().amax(1) * 0.2 < MAX_LOG_SCALE  # they limit growth, not shrinking
    assert same.sum() > 30
    torch.testing.assert_close(
        coder.decode(wild, priors())[same],
        peer.decode_single(wild, priors().boxes)[same],
        rtol=1e-4,
        atol=1e-3,
    )


def test_decoding_wild_deltas_stays_finite() -> None:
    one = Priors(
        torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[4.0, 4]]), torch.tensor([8.0]), (1,)
    )
    decoded = DeltaCoder().decode(torch.tensor([[0.0, 0, 500, -500]]), one)
    width, height = (decoded[0, 2:] - decoded[0, :2]).tolist()
    assert width == pytest.approx(500)  # 8 pixels x 1000 / 16
    assert height == pytest.approx(8 * 16 / 1000)


def test_distances_by_hand() -> None:
    points = torch.tensor([[10.0, 20.0]])
    assert side_distances(points, torch.tensor([[4.0, 5, 30, 25]])).tolist() == [[6, 15, 20, 5]]
