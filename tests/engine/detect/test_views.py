"""Views of an image: whatever the view, boxes come back to where the objects are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from detcli.data.formats.plain_images import read_images
from detcli.engine.detect.evaluate import mirror_boxes, mirror_images
from detcli.engine.detect.load import Trained
from detcli.engine.detect.views import PLAIN, View, choose_views, doubts, look
from detcli.engine.run.distributed import Ranks
from detcli.engine.run.log import RunLog
from detcli.errors import UsageError
from detcli.recipe import load_recipe
from detcli.types import Candidates
from tests.recipes import write_tiny

RANKS = Ranks(0, 1, torch.device("cpu"))
SIZES = [(120, 200), (96, 64), (150, 150)]  # height, width
BOXES = [(30, 20, 60, 50), (8, 40, 30, 32), (60, 70, 40, 44)]  # left, top, width, height


class BrightBox(nn.Module):
    """A detector whose only object is the bounding box of the white pixels."""

    def forward(self, images, targets=None, sizes=None):
        return images

    def decode(self, images, sizes):
        return [self.one(image[:, :h, :w]) for image, (h, w) in zip(images, sizes, strict=True)]

    def one(self, image):
        rows, columns = torch.nonzero(image.mean(0) > 0, as_tuple=True)
        if not len(rows):
            nothing = torch.zeros(0, 4)
            return Candidates(nothing, nothing[:, 0], nothing[:, 0].long(), {"sigma": nothing})
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        return Candidates(
            box[None].float(),
            torch.ones(1),
            torch.zeros(1, dtype=torch.int64),
            {"sigma": torch.tensor([[1.0, 2, 3, 4]])},
        )


@pytest.fixture
def trained(tmp_path):
    recipe = load_recipe(
        write_tiny(tmp_path),
        [
            "data.resize.short=[160]",
            "data.resize.long=320",
            "data.mean=[128,128,128]",
            "data.std=[255,255,255]",
            "eval.batch_per_rank=3",
            "data.augment.flip.horizontal=0.5",
        ],
    ).recipe
    return Trained(recipe, BrightBox(), tmp_path, ("bright",), (1,), tmp_path)


@pytest.fixture
def records(tmp_path):
    paths = []
    for index, ((height, width), (x, y, w, h)) in enumerate(zip(SIZES, BOXES, strict=True)):
        image = np.zeros((height, width, 3), np.uint8)
        image[y : y + h, x : x + w] = 255
        paths.append(str(tmp_path / f"{index}.png"))
        cv2.imwrite(paths[-1], image)
    return read_images(paths, ["bright"], [1])


VIEWS = [
    PLAIN,
    View(mirrored=True),
    View(0.5),
    View(1.5, mirrored=True),
    View(slice_px=110, overlap=0.6),
    View(slice_px=110, overlap=0.6, mirrored=True),
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_view_finds_the_object_where_it_is(trained, records, view, ticks):
    ticks.decoding_takes(1.0)
    seen = look(trained, records, view, RANKS, RunLog(quiet=True))
    assert seen is not None
    assert int(seen.seconds) == 3  # images, each decoded once
    found = seen.candidates
    assert found.num_images == 3
    for index, box in enumerate(BOXES):
        boxes = found.boxes_xywh[found.offsets[index] : found.offsets[index + 1]]
        assert len(boxes) >= 1
        # Half a pixel of the network's input, at the smallest scale of an image.
        np.testing.assert_allclose(boxes, np.tile(box, (len(boxes), 1)), atol=1.6)
    if view.slice_px is None:
        order = [3.0, 2, 1, 4] if view.mirrored else [1.0, 2, 3, 4]
        shrunk = np.array([min(320 / max(size), 160 / min(size)) for size in SIZES]) * view.scale
        expected = np.array(order) / shrunk[:, None]  # pixels of the original image
        np.testing.assert_allclose(found.extra["sigma"], expected, rtol=0.01)


def test_mirroring_twice_is_nothing_and_padding_stays():
    images = torch.randn(2, 3, 8, 10)
    images[1, :, 6:] = 0
    images[1, :, :, 7:] = 0
    sizes = [(8, 10), (6, 7)]
    once = mirror_images(images, sizes)
    assert torch.equal(once[0], images[0].flip(-1))
    assert (once[1, :, 6:] == 0).all()
    assert (once[1, :, :, 7:] == 0).all()
    assert torch.equal(mirror_images(once, sizes), images)
    candidates = Candidates(torch.tensor([[1.0, 2, 4, 5]]), torch.ones(1), torch.zeros(1).long())
    assert mirror_boxes(candidates, 10).boxes.tolist() == [[6, 2, 9, 5]]
    assert torch.equal(mirror_boxes(mirror_boxes(candidates, 10), 10).boxes, candidates.boxes)


def test_which_views():
    assert choose_views([0.8, 1.0], True, None, 0.2) == [
        View(0.8),
        View(1.0),
        View(0.8, True),
        View(1.0, True),
    ]
    assert choose_views([1.0], False, 640, 0.2) == [PLAIN, View(1.0, False, 640, 0.2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], False, None, 0.2), "nothing to add"),
        (([0.0, 1.0], False, None, 0.2), "--scales: expected factors"),
        (([1.0, 1.0], False, None, 0.2), "each factor once"),
        (([1.0], False, 8, 0.2), "--slices: expected a side"),
        (([1.0], False, 640, 1.0), "--overlap: expected 0 to 0.9"),
    ],
)
def test_views_that_make_no_sense(arguments, words):
    with pytest.raises(UsageError, match=words):
        choose_views(*arguments)


def test_doubtful_views_are_said_and_wrong_ones_refused(tmp_path):
    seen = load_recipe(write_tiny(tmp_path), ["data.augment.flip.horizontal=0.0"]).recipe
    said = list(doubts(seen, ("cat",), [View(1.0, True), View(0.3)]))
    assert any("--flip" in sentence for sentence in said)
    assert sum("--scales 0.3" in sentence for sentence in said) == 2  # unlike training, and far
    assert list(doubts(seen, ("left_hand",), [PLAIN])) == []
    with pytest.raises(UsageError, match="--flip: class 'left_hand'"):
        list(doubts(seen, ("left_hand", "cat"), [View(mirrored=True)]))
    several = load_recipe(write_tiny(Path(tmp_path)), ["data.resize.short=[32,64]"]).recipe
    assert list(doubts(several, ("cat",), [View(0.5)])) == []
