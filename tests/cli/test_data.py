"""`detcli data preview` as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcli.engine.pictures.preview import CELL_PX
from tests.cli.run_cli import run
from tests.recipes import write_tiny

MOSAIC = "data.augment.mosaic.prob=1"


def test_a_sheet_of_training_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    done = run(
        capsys,
        "data",
        "preview",
        write_tiny(tmp_path),
        MOSAIC,
        "data.augment.flip=null",
        "--num",
        5,
        "--out",
        sheet,
    )
    assert done.code == 0, done.err
    assert done.out.count("mosaic") == 5
    assert f"sheet: {sheet}" in done.out
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape[1] > 3 * CELL_PX  # three columns, two rows
    assert 2 * CELL_PX < pixels.shape[0] < 3 * CELL_PX
    bottom_right = pixels[-CELL_PX // 2 :, -CELL_PX // 2 :]
    assert (bottom_right == 255).all()  # the sixth place stays empty
    assert pixels[: CELL_PX // 2, : CELL_PX // 2].std() > 10


def test_json_counts_what_acted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    arguments = [
        "data",
        "preview",
        recipe,
        MOSAIC,
        "data.augment.flip.vertical=0",
        "--json",
        "--num",
        "20",
        "--out",
        tmp_path / "a.png",
    ]
    done = run(capsys, *arguments)
    document = json.loads(done.out)
    assert set(document) == {"sheet", "images", "fired"}
    assert len(document["images"]) == 20  # more than the 8 of an epoch: the next ones follow
    names = [name for each in document["images"] for name in each["fired"]]
    assert document["fired"] == {name: names.count(name) for name in ("mosaic", "flip_horizontal")}
    assert document["fired"]["mosaic"] == 20
    assert len({each["image"] for each in document["images"][:8]}) == 8
    assert json.loads(run(capsys, *arguments).out) == document
    other = json.loads(run(capsys, *arguments, "--seed", "1").out)
    assert other["images"] != document["images"]


def test_the_validation_split_is_shown_as_evaluation_sees_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = run(
        capsys,
        "data",
        "preview",
        write_tiny(tmp_path),
        MOSAIC,
        "--split",
        "val",
        "--json",
        "--out",
        tmp_path / "a.png",
    )
    document = json.loads(done.out)
    assert document["fired"] == {}
    assert [each["fired"] for each in document["images"]] == [[]] * 4


def test_what_never_acted_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    rare = "data.augment.blur.prob=0"
    done = run(capsys, "data", "preview", recipe, rare, "--num", 2, "--out", tmp_path / "a.png")
    assert re.search(r"^blur .* 2 images$", done.err, re.MULTILINE)


def test_a_place_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = write_tiny(tmp_path)
    done = run(capsys, "data", "preview", recipe, "--num", 1, "--out", recipe / "a.png")
    assert done.code == 2
    assert "tiny.yaml/a.png: cannot be written: " in done.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--out", "a.jpg"], "--out a.jpg: expected a name that ends in .png"),
        (["data.augment.copy_paste.max_side_px=1"], "data.augment.copy_paste cannot act: no "),
        (["data.augment.mosaic.scale=[1,0.5]"], "scale: expected two numbers from 0.05 to 4"),
        (["data.augment.chips.sides_px=[32]", MOSAIC], "data.augment.mosaic: "),
        (["data.augment.auto_augment.policy=v9"], "expected v0, v1, v2 or v3, got 'v9'"),
        (["data.augment.albumentations.transforms=[{p: 1}]"], "each entry needs a name"),
        (["--trick", "mosaik"], "no trick 'mosaik'; did you mean mosaic?"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = run(capsys, "data", "preview", write_tiny(tmp_path), *arguments)
    assert done.code == 2
    assert error in done.err
    assert len(done.err.splitlines()) == 1


def test_training_refuses_what_cannot_act_before_the_first_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = write_tiny(tmp_path)
    done = run(
        capsys,
        "train",
        recipe,
        "data.augment.copy_paste.max_side_px=1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 2
    assert "data.augment.copy_paste cannot act: no training object is smaller than 1 pixels" in (
        done.err
    )
    assert " step 1 " not in done.err


def test_training_counts_what_acted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, schedule={"epochs": 1, "warmup_steps": 1})
    done = run(
        capsys,
        "train",
        recipe,
        MOSAIC,
        "data.augment.mixup.prob=1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    assert "of 8 images, mosaic 8, mixup 8, flip_horizontal" in done.err
