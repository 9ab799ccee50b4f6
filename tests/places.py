"""In how many files of the package an option is written down: what must change to add another.

    python -m tests.places

Counted on one that is there: a file counts where its code (not its comments and docstrings)
names it, as a module, class, function, keyword, attribute or text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

PACKAGE = ROOT / "detcli"
# Other toolboxes' names for what is here: nothing that is added needs them.
OTHERS = (PACKAGE / "weights", PACKAGE / "engine" / "run" / "import_weights.py")

# What is added -> how the one that is counted is named, and the most files it may take.
EXAMPLES = {
    "detector": (r"(\w+\.)*(build)?vfnet\w*", 4),
    "augmentation": (r"(\w+\.)*\w*mosaic\w*", 4),
    "neck": (r"(\w+\.)*\w*bifpn\w*", 4),
    "suppression method": (r"(\w+\.)*softer\w*", 3),
    "data format": (r"(detcli\.data\.formats\.)?(read|count)?yolo", 3),
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


def places(pattern: str) -> list[str]:
    """The files of the package, relative to it, in whose code a word is that `pattern` describes;
    words without underscores and capitals, so that one pattern stands for name, class and key."""
    return [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if not any(other in (path, *path.parents) for other in OTHERS)
        and any(re.fullmatch(pattern, word.replace("_", "").lower()) for word in words(path))
    ]


if __name__ == "__main__":
    for kind, (pattern, most) in EXAMPLES.items():
        found = places(pattern)
        print(f"{kind} ({pattern}): {len(found)} of at most {most}\n  " + "\n  ".join(found))
