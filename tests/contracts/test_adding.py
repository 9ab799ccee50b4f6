"""CONTRIBUTING's recipes, followed on a copy of the package: one more of everything works, and
takes no more files than `tests/places.py` allows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.paths import ROOT
from tests.places import EXAMPLES
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


class Addition(NamedTuple):
    """new: files by their place in the package; rows: in which file which words become which."""

    new: dict[str, str]
    rows: dict[str, dict[str, str]]


DETECTOR = Addition(
    {
        "models/bullseye.py": """\
from detcli.models.fcos import build_fcos


def build_bullseye(options, *, num_classes):
    assert options.rings == 3
    return build_fcos(options, num_classes=num_classes)
""",
        "recipe/sections/models/bullseye.py": """\
from typing import Literal

from pydantic import Field

from detcli.recipe.sections.models.fcos import Fcos


class Bullseye(Fcos):
    name: Literal["bullseye"] = Field(description="Bullseye")
    rings: int = Field(3, gt=0, description="Number of rings")
""",
    },
    {
        "models/__init__.py": {
            "from detcli.models.atss": "from detcli.models.bullseye import build_bullseye\n"
            "from detcli.models.atss",
            '    "atss": ': '    "bullseye": build_bullseye,\n    "atss": ',
        },
        "recipe/sections/models/table.py": {
            "from detcli.recipe.sections.models.atss": "from detcli.recipe.sections.models.bullseye"
            " import Bullseye\nfrom detcli.recipe.sections.models.atss",
            "    | Atss\n": "    | Atss\n    | Bullseye\n",
        },
    },
)
NECK = Addition(
    {
        "models/necks/straight.py": """\
from detcli.models.necks.fpn import FPN


class Straight(FPN):
    def own_levels(self, maps):
        used = maps[-len(self.lateral) :]
        return [lateral(x) for lateral, x in zip(self.lateral, used, strict=True)]
"""
    },
    {
        "models/pyramid.py": {
            "from detcli.models.necks.pan": "from detcli.models.necks.straight import Straight\n"
            "from detcli.models.necks.pan",
            '    "pan": ': '    "straight": Straight,\n    "pan": ',
        },
        "recipe/sections/network.py": {
            "AnyNeck = Annotated[Neck | ": "class StraightNeck(Neck):\n"
            '    name: Literal["straight"] = Field(description="Neck type")\n\n\n'
            "AnyNeck = Annotated[StraightNeck | Neck | "
        },
    },
)
AUGMENTATION = Addition(
    {
        "data/transforms/negative.py": """\
class Negative:
    names = ("negative",)

    def __init__(self, prob):
        self.prob = prob

    def __call__(self, sample):
        return sample.changed("negative", image=255 - sample.image)
"""
    },
    {
        "data/transforms/build.py": {
            "from detcli.data.transforms.mix": "from detcli.data.transforms.negative import "
            "Negative\nfrom detcli.data.transforms.mix",
            '    "mixup": ': '    "negative": Augmentation(Negative),\n    "mixup": ',
        },
        "recipe/sections/augment.py": {
            "class Augment(Section):": "class Negative(Augmentation):\n"
            '    prob: Probability = Field(0.5, description="Probability")\n\n\n'
            "class Augment(Section):",
            "    flip: Flip | None": "    negative: Negative | None = "
            'Field(None, description="off")\n    flip: Flip | None',
        },
    },
)
METHOD = Addition(
    {
        "postprocess/strongest.py": """\
from detcli.postprocess.none import none


def strongest(candidates, *, max_per_image, fraction):
    return none(candidates, max_per_image=max(1, int(fraction * max_per_image)))
"""
    },
    {
        "postprocess/suppress.py": {
            "from detcli.postprocess.wbf": "from detcli.postprocess.strongest import strongest\n"
            "from detcli.postprocess.wbf",
            '    "none": ': '    "strongest": strongest,\n    "none": ',
        },
        "recipe/sections/postprocess.py": {
            "Postprocess = Annotated[\n": "class Strongest(AnyMethod):\n"
            '    method: Literal["strongest"] = Field(description=METHOD)\n'
            '    fraction: float = Field(0.5, gt=0, le=1, description="Fraction kept")\n\n\n'
            "Postprocess = Annotated[\n    Strongest |\n"
        },
    },
)
FORMAT = Addition(
    {
        "data/formats/tall.py": """\
from detcli.data.formats.coco import read_coco


def read_tall(source):
    split = {"annotations": source.split["table"], "images": source.split["images"]}
    return read_coco(source.root, split, **source.options)
"""
    },
    {
        "data/formats/read.py": {
            "READERS = {\n": "def _read_tall(source: Source) -> Records:\n"
            "    from detcli.data.formats.tall import read_tall\n\n"
            "    return read_tall(source)\n\n\n"
            'READERS = {\n    "tall": Reader(("table", "images"), _read_tall, lambda *_: 8),\n'
        },
        "recipe/sections/data.py": {
            "SPLIT_KEYS = {\n": 'SPLIT_KEYS = {\n    "tall": ("table", "images"),\n',
            'Literal["coco", ': 'Literal["tall", "coco", ',
            "class Split(Section):\n": "class Split(Section):\n"
            '    table: str | None = Field(None, description="tall: a table")\n\n',
        },
    },
)
ADDITIONS = {
    "detector": DETECTOR,
    "neck": NECK,
    "augmentation": AUGMENTATION,
    "suppression method": METHOD,
    "data format": FORMAT,
}


class Grown:
    """A copy of the package in `folder`, with an addition."""

    def __init__(self, folder: Path, addition: Addition) -> None:
        self.folder = folder
        package = folder / "detcli"
        shutil.copytree(ROOT / "detcli", package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        for place, text in addition.new.items():
            (package / place).write_text(f"from __future__ import annotations\n\n{text}")
        for place, rows in addition.rows.items():
            text = (package / place).read_text()
            for before, after in rows.items():
                assert text.count(before) == 1, (place, before)
                text = text.replace(before, after)
            (package / place).write_text(text)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "detcli", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done


@pytest.mark.parametrize("kind", ADDITIONS)
def test_it_takes_no_more_files_than_allowed(kind):
    addition = ADDITIONS[kind]
    assert len(addition.new) + len(addition.rows) <= EXAMPLES[kind][1]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("detector", {"model": {"name": "bullseye"}}),
        ("neck", {"model": {"neck": {"name": "straight"}}}),
        ("augmentation", {"data": {"augment": {"negative": {"prob": 1.0}}}}),
    ],
)
def test_what_is_added_trains(kind, changes: dict[str, Any], tmp_path):
    grown = Grown(tmp_path, ADDITIONS[kind])
    recipe = write_tiny(tmp_path, **changes, schedule={"epochs": 1, "warmup_steps": 1})
    run = tmp_path / "run"
    grown.run("train", recipe, "--out", run, "--quiet")
    assert (run / "best.pt").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if kind == "augmentation":
        assert [line["negative"] for line in lines if line["kind"] == "fired"] == [8]
    elif kind == "detector":
        assert "rings: 3" in grown.run("recipes", "show", recipe, "--yaml").stdout


def test_a_new_suppression_method_is_compared_and_part_of_recipes(tmp_path):
    grown = Grown(tmp_path, METHOD)
    images = [{"id": 0, "width": 90, "height": 90, "file_name": "0.jpg"}]
    truth = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
    boxes = [
        {"image_id": 0, "category_id": 1, "bbox": [9 * i, 0, 9, 9], "score": 1 - i / 10}
        for i in range(8)
    ]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "p.json").write_text(json.dumps(boxes))
    done = grown.run(
        *("nms-compare", "p.json", "--gt", "gt.json", "--bootstrap", 0, "--json", "--quiet"),
        *("--method", "strongest fraction=0.25 max_per_image=8"),
    )
    row = json.loads(done.stdout)["rows"][-1]
    assert (row["method"], row["boxes_per_image"]) == ("strongest", 2)
    recipe = write_tiny(tmp_path, postprocess={"method": "strongest"})
    assert "fraction: 0.5" in grown.run("recipes", "show", recipe, "--yaml").stdout


def test_a_new_data_format_is_read_and_counted(tmp_path):
    grown = Grown(tmp_path, FORMAT)
    grown.run("train", write_tiny(tmp_path), "--dry-run", "--quiet")  # writes the shapes
    split = {"table": "annotations/train.json", "images": "images/train"}
    data = {"format": "tall", "train": split, "val": dict(split), "shapes": None}
    (root,) = (path.parents[1] for path in (tmp_path / "shapes").rglob("train.json"))
    recipe = write_tiny(tmp_path, data={**data, "root": str(root)})
    assert "8 images" in grown.run("train", recipe, "--dry-run").stderr
    assert json.loads(grown.run("lr-scale", recipe, "--json", "--quiet").stdout)["batch"] == 2
