"""Every detector on the same small task: the table and picture of docs/zoo.md (`make zoo`).

    python -m tests.benchmarks.zoo ../shared/data/bccd-voc --out runs/zoo

Each small recipe is trained from random weights on the blood cells (BCCD, 205 images) at
320 x 240 in one thread, then timed. What is finished is kept: the same command goes on after an
interruption. `--write docs/zoo.md` writes the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

from tests.benchmarks.training import detcli, trained

EPOCHS = 4
HEADER = ("detector", "recipe", "params (M)", "GMACs", "CPU min", "AP", "AP50", "AP75", "images/s")


class Entry(NamedTuple):
    """A shipped recipe and what becomes of it on blood cells."""

    detector: str
    recipe: str
    overrides: tuple[str, ...] = ()


COARSER = ("model.neck.max_level=6",)  # cells of 64 pixels for the white blood cells
REGIONS = (
    "model.rpn.proposals.train={topk_per_level: 500, max_per_image: 200}",
    "model.rpn.proposals.test={topk_per_level: 500, max_per_image: 200}",
)
# An SSD squashes images to squares; 288 x 288 has about as many pixels as 320 x 240.
SSD = (
    "data.resize={short: [288], keep_aspect: false}",
    "model.anchors.sizes=[18.0, 36.0, 64.0, 100.0, 150.0]",
)
# Side lengths of BCCD's boxes at 320 x 240: platelets, red cells, white cells.
YOLO = (
    "model.anchors=[[16.0, 16.0, 22.0, 22.0, 30.0, 30.0], [42.0, 42.0, 50.0, 50.0, 58.0, 58.0], "
    "[72.0, 72.0, 92.0, 92.0, 120.0, 120.0]]",
)
ENTRIES = (
    Entry("RetinaNet", "retinanet_r18_bccd"),
    Entry("FCOS", "fcos_r18_bccd"),
    Entry("ATSS", "atss_r18_bccd"),
    Entry("VFNet", "vfnet_r18_shapes", COARSER),
    Entry("NAS-FCOS", "nas_fcos_r18_shapes", COARSER),
    Entry("GA-RetinaNet", "ga_retinanet_r18_shapes", COARSER),
    Entry("CenterNet", "centernet_r18_shapes"),
    Entry("YOLOv4 (width 0.25)", "yolov4_shapes", YOLO),
    Entry("SSD (VGG-16)", "ssd_vgg16_shapes", SSD),
    Entry("Faster R-CNN", "faster_rcnn_r18_shapes", (*COARSER, *REGIONS)),
    Entry("GA-Faster R-CNN", "ga_faster_rcnn_r18_shapes", COARSER),
    Entry("Cascade R-CNN", "cascade_rcnn_r18_shapes", (*COARSER, *REGIONS)),
)


def overrides(entry: Entry, data: Path) -> list[str]:
    """The recipe's keys that put it on the blood cells; the entry's own come last."""
    common = [f"data.root={data}", f"schedule.epochs={EPOCHS}", "train.eval_every=0"]
    if not entry.recipe.endswith("bccd"):
        common += [
            "data.format=voc",
            "data.shapes=null",
            "data.train={split: train}",
            "data.val={split: val}",
            "data.resize={short: [240], long: 320}",
            "schedule.warmup_steps=50",
        ]
    return [*common, *entry.overrides]


def learned(entry: Entry, data: Path, out: Path) -> dict[str, float]:
    """AP of the last epoch, and what it took."""
    return trained(entry.recipe, overrides(entry, data), out / entry.recipe)


def timed(entry: Entry, data: Path, out: Path) -> dict[str, Any]:
    """Size, multiply-adds and speed of the network, forward and decoding, one image at a time."""
    checkpoint = str(out / entry.recipe / "last.pt")
    document = detcli(
        "profile",
        entry.recipe,
        *overrides(entry, data),
        "--what",
        "model",
        "--quiet",
        "--weights",
        checkpoint,
    )
    model = document["model"]
    return {name: model[name] for name in ("params_total", "gmacs", "images_per_s")}


def cells(entry: Entry, row: dict[str, Any]) -> tuple[str, ...]:
    return (
        entry.detector,
        f"`{entry.recipe}`",
        f"{row['params_total'] / 1e6:.2f}",
        f"{row['gmacs']:.2f}",
        f"{row['cpu_minutes']:.1f}",
        *(f"{row[name]:.3f}" for name in ("AP", "AP50", "AP75")),
        f"{row['images_per_s']:.1f}",
    )


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, best AP first."""
    done = [entry for entry in ENTRIES if "gmacs" in rows.get(entry.recipe, {})]
    done.sort(key=lambda entry: -rows[entry.recipe]["AP"])
    lines = [HEADER, ("---",) * 2 + ("---:",) * (len(HEADER) - 2)]
    lines += [cells(entry, rows[entry.recipe]) for entry in done]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """AP against speed."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    best_first = sorted(ENTRIES, key=lambda entry: -rows[entry.recipe]["AP"])
    for number, entry in enumerate(best_first):
        row = rows[entry.recipe]
        axes.scatter(row["images_per_s"], row["AP"], s=12 * row["params_total"] / 1e6, alpha=0.6)
        axes.annotate(  # in turn below and above, for neighbours
            entry.detector,
            (row["images_per_s"], row["AP"]),
            fontsize=9,
            xytext=(8, 4 if number % 2 else -10),
            textcoords="offset points",
        )
    fastest = max(row["images_per_s"] for row in rows.values())
    axes.set_xlim(0, 1.35 * fastest)  # room for its name
    axes.set(
        xlabel="images/s, one thread, batch 1",
        ylabel="AP on BCCD val",
        title=(f"Blood cells at 320 x 240, {EPOCHS} epochs from random weights (area: parameters)"),
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--only", help="recipes, separated by commas")
    parser.add_argument("--write", type=Path, help="the page whose table and picture to renew")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "zoo.json"
    rows: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    chosen = [e for e in ENTRIES if options.only is None or e.recipe in options.only.split(",")]
    for work, key in ((learned, "AP"), (timed, "gmacs")):
        for entry in chosen:
            row = rows.setdefault(entry.recipe, {})
            if key in row:
                continue
            row |= work(entry, options.data, options.out)
            file.write_text(json.dumps(rows, indent=2))
            print(entry.detector, row, flush=True)
    print(table(rows))
    if options.write is not None:
        page = options.write.read_text()
        first = page.index("| detector |")
        last = page.index(" |\n\n", first) + len(" |\n")
        options.write.write_text(page[:first] + table(rows) + "\n" + page[last:])
        draw(rows, options.write.parent / "images" / "zoo.png")


if __name__ == "__main__":
    main()
