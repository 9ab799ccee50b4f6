"""Box geometry against torchvision and by hand."""

import torch
from torchvision.ops import box_iou

from detcli.ops.boxes import (
    box_area,
    box_centers,
    clip_boxes,
    paired_iou,
    pairwise_intersection,
    pairwise_iou,
)


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    size = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + size], dim=1)


def test_iou_is_torchvisions() -> None:
    a, b = boxes(40, 0), boxes(30, 1)
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(paired_iou(a[:30], b), box_iou(a[:30], b).diagonal())


def test_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 4, 2]])
    b = torch.tensor([[2.0, 1, 6, 5], [4, 0, 8, 2], [1, 1, 1, 1]])
    assert box_area(a).tolist() == [8]
    assert box_centers(b).tolist() == [[4, 3], [6, 1], [1, 1]]
    assert pairwise_intersection(a, b).tolist() == [[2, 0, 0]]
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[2 / 22, 0, 0]]))


def test_empty_boxes_have_no_overlap() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert pairwise_iou(point, point).tolist() == [[0]]
    assert pairwise_iou(point, torch.zeros(0, 4)).shape == (1, 0)


def test_clip() -> None:
    inside = clip_boxes(torch.tensor([[-3.0, -1, 9, 30], [2, 3, 4, 5]]), (20, 8))
    assert inside.tolist() == [[0, 0, 8, 20], [2, 3, 4, 5]]
