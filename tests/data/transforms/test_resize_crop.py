"""DETR's crop: how large it is, and what stays of the objects."""

from __future__ import annotations

import torch

from detcli.data.transforms.resize_crop import ResizeCrop
from detcli.data.transforms.sample import Sample


def sample(height: int, width: int, boxes: list[list[float]]) -> Sample:
    generator = torch.Generator().manual_seed(1)  # no window is like another
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    count = len(boxes)
    return Sample(
        image,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.arange(count),
        torch.zeros(count, dtype=torch.bool),
    )


def test_sides_are_drawn_at_the_smaller_size() -> None:
    """240 x 360 at a short side of 120 is 120 x 180: crops of 60 to 100 of these pixels are twice
    as many of the stored ones."""
    torch.manual_seed(0)
    crop = ResizeCrop(1.0, [120], [60, 100])
    sizes = [crop(sample(240, 360, [])).size for _ in range(200)]
    for axis in (0, 1):
        sides = [size[axis] for size in sizes]
        assert min(sides) == 120
        assert max(sides) == 200
    assert len(set(sizes)) > 100


def test_a_side_is_at_most_the_images() -> None:
    torch.manual_seed(0)
    crop = ResizeCrop(1.0, [50], [60, 100])
    sizes = {crop(sample(100, 150, [])).size for _ in range(50)}
    assert {height for height, _ in sizes} == {100}
    assert {width for _, width in sizes} <= set(range(118, 151))


def test_boxes_are_cut_and_go_with_the_pixels() -> None:
    torch.manual_seed(3)
    crop = ResizeCrop(1.0, [100], [40, 60])
    boxes = [[0.0, 0.0, 100.0, 150.0], [2.0, 2.0, 6.0, 6.0], [40.0, 60.0, 60.0, 90.0]]
    whole = sample(150, 100, boxes)
    for _ in range(50):
        cut = crop(whole)
        assert cut.fired == ("resize_crop",)
        height, width = cut.size
        full = cut.boxes[cut.labels == 0][0]  # what covers the image covers the crop
        assert full.tolist() == [0, 0, width, height]
        start = int(cut.image[0, 0, 0])
        places = (whole.image[0] == start).nonzero().tolist()
        tops = [
            (top, left)
            for top, left in places
            if torch.equal(whole.image[:, top : top + height, left : left + width], cut.image)
        ]
        top, left = tops[0]
        for label, (x1, y1, x2, y2) in enumerate(boxes):
            want = [
                max(x1 - left, 0),
                max(y1 - top, 0),
                min(x2 - left, width),
                min(y2 - top, height),
            ]
            seen = cut.boxes[cut.labels == label].tolist()
            assert seen == ([want] if want[0] < want[2] and want[1] < want[3] else [])


def test_never_and_always() -> None:
    torch.manual_seed(0)
    one = sample(100, 100, [])
    assert ResizeCrop(0.0, [50], [20, 30])(one) is one
    assert ResizeCrop(1.0, [50], [20, 30])(one).size != (100, 100)
