"""How fast three detectors learn the same generated shapes: the picture and table of
docs/detectors.md (`make curves`).

    python -m tests.benchmarks.curves --out runs/curves --write docs/detectors.md

Each small recipe is trained as shipped, in one thread. What is finished is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from detcli.engine.pictures.plots import COLOURS, STYLES
from detcli.engine.pictures.training_curves import read_metrics
from tests.benchmarks.training import trained

RECIPES = {
    "ATSS": "atss_r18_shapes",
    "Deformable DETR": "deformable_detr_r18_shapes",
    "DETR": "detr_r18_shapes",
}
HEADER = "| detector | recipe | epochs | CPU min | AP | AP50 | first epoch with AP50 over 0.5 |"
FIRST, LAST = "<!-- curves -->", "<!-- end of curves -->"


def curve(folder: Path) -> list[tuple[int, float]]:
    """(epoch, AP50) of every evaluation of a run."""
    lines = [line for line in read_metrics(folder) if line["kind"] == "eval"]
    return [(line["epoch"], line["AP50"]) for line in lines]


def draw(curves: dict[str, list[tuple[int, float]]], minutes: dict[str, float], path: Path) -> None:
    """AP50 against epochs, and against processor time, of which every epoch takes the same."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (by_epoch, by_time) = plt.subplots(
        1, 2, figsize=(11, 4.2), sharey=True, layout="constrained"
    )
    for (name, points), colour, style in zip(curves.items(), COLOURS, STYLES, strict=False):
        epochs, quality = zip(*points, strict=True)
        look: dict[str, Any] = {"label": name, "color": colour, "linestyle": style, "marker": "o"}
        by_epoch.plot(epochs, quality, **look)
        by_time.plot([minutes[name] * epoch / epochs[-1] for epoch in epochs], quality, **look)
    by_epoch.set(xlabel="epochs of 500 images", ylabel="AP50 on 100 other images", ylim=(0, 1))
    by_time.set(xlabel="CPU minutes, one core")
    by_epoch.legend()
    for axes in (by_epoch, by_time):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def table(rows: dict[str, dict[str, float]], curves: dict[str, list[tuple[int, float]]]) -> str:
    """Markdown."""
    lines = [HEADER, "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, recipe in RECIPES.items():
        row, points = rows[recipe], curves[name]
        reached = next((str(epoch) for epoch, quality in points if quality > 0.5), "-")
        lines.append(
            f"| {name} | `{recipe}` | {points[-1][0]} | {row['cpu_minutes']:.1f} | "
            f"{row['AP']:.3f} | {row['AP50']:.3f} | {reached} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--write", type=Path, help="the page whose table and picture to renew")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "curves.json"
    rows: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    for recipe in RECIPES.values():
        if recipe not in rows:
            data = [f"data.root={options.out / 'shapes'}"]
            rows[recipe] = trained(recipe, data, options.out / recipe)
            file.write_text(json.dumps(rows, indent=2))
            print(recipe, rows[recipe], flush=True)
    curves = {name: curve(options.out / recipe) for name, recipe in RECIPES.items()}
    print(table(rows, curves))
    if options.write is not None:
        page = options.write.read_text()
        start, end = page.index(FIRST) + len(FIRST), page.index(LAST)
        options.write.write_text(f"{page[:start]}\n{table(rows, curves)}\n{page[end:]}")
        minutes = {name: rows[recipe]["cpu_minutes"] for name, recipe in RECIPES.items()}
        draw(curves, minutes, options.write.parent / "images" / "learning_curves.png")


if __name__ == "__main__":
    main()
