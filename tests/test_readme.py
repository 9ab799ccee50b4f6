"""The README's commands, in its order, in an empty folder, on a small data set; and what the docs
say about options, pages and files."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcli import __version__
from detcli.data.formats.read import read_records
from tests.cli.run_cli import run
from tests.paths import ROOT

pytestmark = pytest.mark.slow

TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (detcli .+)$", TEXT, re.MULTILINE)
PAGES = sorted((ROOT / "docs").glob("*.md"))
SHAPES = {"variant": "plain", "num_train": 4, "num_val": 4, "size": (64, 64), "seed": 0}


def write_voc(folder: Path) -> None:
    """Generated shapes as a Pascal VOC data set."""
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "val"):
        records = read_records(
            format="shapes", root=str(folder / "source"), split=None, name=split, shapes=SHAPES
        )
        stems = [f"{split}{index}" for index in range(len(records))]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(stems))
        for index, stem in enumerate(stems):
            with Image.open(records.path(index)) as image:
                image.save(folder / "JPEGImages" / f"{stem}.jpg")
            (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(records, index, stem))


def voc_xml(records, index, stem):
    rows = records.rows(index)
    objects = ""
    for (x, y, w, h), label in zip(records.boxes_xywh[rows], records.labels[rows], strict=True):
        corners = np.round([x + 1, y + 1, x + w, y + h]).astype(int)
        box = "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        name = records.class_names[label]
        objects += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    height, width = records.size(index)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{stem}.jpg</filename>{size}{objects}</annotation>"


def test_it_opens_with_the_two_commands_and_the_three_questions():
    assert [line.split("#")[0].split() for line in TEXT.splitlines()[2:4]] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    assert TEXT.index("make demo") < TEXT.index("make test") < TEXT.index("## Three questions")
    assert len(re.findall(r"^\*\*.+\?\*\*", TEXT.split("## Three questions")[1], re.MULTILINE)) == 3


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith("http"):
            file, _, heading = link.partition("#")
            target = page.parent / file if file else page
            assert target.is_file(), link
            assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> set[str]:
    """The names of the pages that a page links to."""
    return {Path(link).name for link in re.findall(r"\]\(([^)#]+)", page.read_text())}


def test_each_page_of_the_docs_is_linked_to():
    linked = {link for page in [ROOT / "README.md", *PAGES] for link in links(page)}
    assert {page.name for page in PAGES} <= linked


def test_its_table_lists_the_verbs_of_the_help(capsys):
    shown = run(capsys, "--help").out
    listed = set(re.findall(r"^\| `detcli ([\w-]+)", TEXT, re.MULTILINE)) | {"val"}
    assert set(re.findall(r"^  ([\w-]+)  ", shown.split("Commands:")[1], re.MULTILINE)) == listed


def test_its_commands_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detcli.engine.train.overfit.STEPS", 2)
    write_voc(tmp_path / "cells")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for command in COMMANDS:
            run_command(capsys, command)
    finally:
        torch.set_num_threads(before)
    assert Path("runs/mine/1/best.pt").is_file()


def run_command(capsys, command):
    """Run one line; training is cut to one epoch, and the overfit check to two steps."""
    done = run(capsys, *shlex.split(command)[1:])
    codes = (0, 1) if "--overfit" in command else (0,)
    assert done.code in codes, f"{command}: {done.err}"
    if " recipes copy " in command:
        path = Path("mine.yaml")
        text = path.read_text()
        for old, new in (
            ("epochs: 12", "epochs: 1"),
            ("workers: 2", "workers: 0"),
            ("short: [240], long: 320", "short: [64], long: 64"),
        ):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_docs_name_real_options(page, capsys):
    """Commands of the docs are parsed by the real command line, up to what needs real files."""
    for line in re.findall(r"^    (detcli .+)$", page.read_text(), re.M):
        words = shlex.split(line, comments=True)[1:]
        verb = words[:2] if words[0] in {"recipes", "data", "weights"} else words[:1]
        known = run(capsys, *verb, "--help").out
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            assert option in known, line


def test_the_changelog_is_one_screen_per_version():
    """keepachangelog.com: the newest first, changes under the headings of that page."""
    versions = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]
    assert [version.split("]")[0] for version in versions[:2]] == ["[Unreleased", f"[{__version__}"]
    for version in versions:
        assert len(version.splitlines()) <= 50
        kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


WHERE = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", (ROOT / "docs" / "design.md").read_text())


def test_the_design_says_where_things_are():
    assert len(WHERE) >= 10
    for place, name in WHERE:
        source = (ROOT / "detcli" / place).read_text()
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), (place, name)
