"""Anchor boxes and points against the fixtures' own, torchvision's and by hand."""

import json

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detcli.ops.priors import Priors, anchor_shapes, grid_priors, priors_inside
from tests.paths import PARITY


def test_shapes_are_mmdetections() -> None:
    settings = json.loads((PARITY / "mm_retinanet_r50.json").read_text())
    levels = settings["bbox_head"]["anchor_generator"]["base_anchors_xyxy"]
    for stride, want in zip((8, 16, 32, 64, 128), levels, strict=True):
        sizes = [stride * 4 * 2 ** (third / 3) for third in range(3)]
        shapes = anchor_shapes(sizes, [0.5, 1.0, 2.0])
        torch.testing.assert_close(shapes, torch.tensor(want), rtol=0, atol=1e-4)


def test_grid_is_torchvisions() -> None:
    sizes = ((32, 40), (64, 80))
    maps = [torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 3, 4)]
    peer = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 2)
    want = peer(ImageList(torch.zeros(1, 3, 40, 56), [(40, 56)]), maps)[0]
    shapes = [anchor_shapes(level, [0.5, 1.0, 2.0]).round() for level in sizes]
    steps = [(40 // 5, 56 // 7), (40 // 3, 56 // 4)]  # the second is no power of two
    priors = grid_priors([(5, 7), (3, 4)], (8, 16), shapes, steps=steps)
    torch.testing.assert_close(priors.boxes, want)
    assert priors.level_sizes == (5 * 7 * 6, 3 * 4 * 6)


def small() -> Priors:
    shapes = [torch.tensor([[-4.0, -4, 4, 4], [-2, -2, 2, 2]]), torch.tensor([[-8.0, -8, 8, 8]])]
    return grid_priors([(2, 3), (1, 2)], (8, 16), shapes, offset=0.5)


def test_order_and_centers() -> None:
    priors = small()
    assert len(priors) == 14
    assert priors.centers[:6].tolist() == [[4, 4], [4, 4], [12, 4], [12, 4], [20, 4], [20, 4]]
    assert priors.centers[6].tolist() == [4, 12]
    assert priors.boxes[1].tolist() == [2, 2, 6, 6]
    assert priors.strides.tolist() == [8.0] * 12 + [16.0] * 2


def test_select_of_all_priors_copies_nothing() -> None:
    priors = small()
    assert priors.select(torch.ones(14, dtype=torch.bool)) is priors


def test_select_take_and_split_keep_rows_together() -> None:
    priors = small()
    keep = torch.zeros(14, dtype=torch.bool)
    keep[[0, 3, 13]] = True
    chosen = priors.select(keep)
    assert chosen.level_sizes == (2, 1)
    assert torch.equal(chosen.centers, priors.centers[[0, 3, 13]])
    taken = priors.take(torch.tensor([5, 2]))
    assert torch.equal(taken.boxes, priors.boxes[[5, 2]])
    first, second = priors.split()
    assert torch.equal(first.boxes, priors.boxes[:12])
    assert torch.equal(second.strides, priors.strides[12:])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_cells_outside_the_image(offset: float) -> None:
    """A cell belongs to the image if it begins in it, wherever in the cell its point lies."""
    shapes = [torch.tensor([[-4.0, -4, 4, 4]])]
    priors = grid_priors([(4, 4)], (8,), shapes, offset=offset)
    inside = priors_inside(priors, (16, 20), offset=offset).view(4, 4)
    assert inside.sum(dim=1).tolist() == [3, 3, 0, 0]


def test_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Priors\.boxes: expected shape"):
        Priors(torch.zeros(3, 4), torch.zeros(4, 2), torch.zeros(4), (4,))
