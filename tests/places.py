"""In how many files of the package an option is written down: what must change to add another.

    python -m tests.places

Counted on one that is there: a file counts where its code (not its comments and docstrings)
names it, as a module, class, function, keyword, attribute or text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

PACKAGE = ROOT / "detcli"
WEIGHTS = PACKAGE / "weights"  # other toolboxes' names: none is needed to add a detector

# What is added -> the one that is counted, and the most files it may take.
EXAMPLES = {
    "detector": ("vfnet", 4),
    "augmentation": ("mosaic", 4),
    "neck": ("bifpn", 4),
    "suppression method": ("wbf", 3),
    "data format": ("yolo", 3),
}


def words(path: Path) -> Iterator[str]:
    """Every name and every text of a file's code."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield text


def names(word: str, name: str) -> bool:
    """Whether a word is this name: mosaic, Mosaic, build_mosaic, PooledMosaic, MOSAIC_SIZE."""
    if " " in word:  # a sentence for the user
        return False
    return name in word.replace("_", "").replace(".", " ").lower()


def places(name: str) -> list[str]:
    """The files of the package whose code names it, relative to the package."""
    return [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if WEIGHTS not in path.parents and any(names(word, name) for word in words(path))
    ]


if __name__ == "__main__":
    for kind, (name, most) in EXAMPLES.items():
        found = places(name)
        print(f"{kind} ({name}): {len(found)} of at most {most}\n  " + "\n  ".join(found))
