"""A change of structure must not change a number: what the verbs compute, recorded and compared.

    python -m tests.same_numbers record before.json      # on the commit before the change
    python -m tests.same_numbers compare before.json     # on the commit after it

Trains every small recipe for twenty steps on one thread, and runs every verb on what comes out.
Only the command line is used, which a change of structure leaves alone. Kept: losses, boxes and
JSON documents; left out: times, memory, paths, and the prose beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.paths import ROOT, SHARED

STEPS, BOXES = 20, 100
SHAPES = ["data.shapes.num_train=40", "data.shapes.num_val=8", "data.batch_per_rank=4"]
BCCD = [
    f"data.root={SHARED / 'data' / 'bccd-voc'}",
    "data.resize.short=[96]",
    "data.resize.long=96",
]
SHORT = ["data.workers=0", "schedule.epochs=2", "train.log_every=1", "train.eval_every=2"]
PROSE = {
    "seconds",
    "ms_per_image",
    "relative_time",
    "memory_gib",
    "images_per_s",
    "data_wait",
    "path",
    "folder",
    "run",
    "written",
    "description",
    "notes",
    "warnings",
    "cost",
    "out",
    "about",
    "files",
    "predictions",
    "timing",
    "picture",
    "latency_ms",
    "step_ms",
    "checks",
    "max_per_image",
    "class_agnostic",
    "weights",
    "ratio",
    "version",
    "ms",
}


def detcli(*arguments: object, cwd: Path, codes: tuple[int, ...] = (0,)) -> str:
    """What a verb prints on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "detcli", *map(str, arguments)],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in codes, f"{arguments}: {done.returncode}\n{done.stderr}"
    return done.stdout


def numbers(value: Any, at: Path) -> Any:
    """A JSON document without what may differ from one run to the next."""
    if isinstance(value, dict):
        return {key: numbers(each, at) for key, each in value.items() if key not in PROSE}
    if isinstance(value, list):
        return [numbers(each, at) for each in value]
    return value.replace(str(at), ".") if isinstance(value, str) else value


def train(name: str, at: Path) -> dict[str, Any]:
    """Losses of the first steps and the first final boxes of one recipe."""
    chosen = SHAPES if name.endswith("shapes") else BCCD
    limit = [] if name.endswith("shapes") else ["data.batch_per_rank=8"]
    folder = at / name
    detcli(
        "train",
        ROOT / "recipes" / f"{name}.yaml",
        *chosen,
        *limit,
        *SHORT,
        "--out",
        folder,
        "--quiet",
        cwd=at,
    )
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [line for line in lines if line["kind"] == "train"][:STEPS]
    boxes = json.loads((folder / "predictions.json").read_text())[:BOXES]
    return {"losses": numbers(losses, at), "boxes": boxes}


def verbs(at: Path) -> dict[str, Any]:
    """The JSON documents of the verbs on the run of atss_r18_shapes."""
    run = at / "atss_r18_shapes"
    images = (at / "data" / "shapes").rglob("*.*")
    image = min(path for path in images if path.suffix in {".png", ".jpg"})
    candidates = run / "eval_val" / "candidates.npz"
    methods = "nms,diou,wbf,nmw,weighted,none"
    small = [*SHAPES, "data.workers=0", "schedule.epochs=1"]
    calls: dict[str, tuple[object, ...]] = {
        "eval": ("eval", run, "--candidates", "--classwise", "--analyse", "--verify"),
        "eval voc": ("eval", run, "--metric", "voc"),
        "predict": ("predict", run, image, "--out", at / "predicted"),
        "tta": ("tta", run, "--scales", "1.0,1.25", "--flip", "--bootstrap", 50),
        "nms-compare": ("nms-compare", candidates, "--methods", methods, "--bootstrap", 50),
        "nms-compare sweep": (
            "nms-compare",
            candidates,
            "--methods",
            methods,
            "--sweep",
            "--bootstrap",
            50,
        ),
        "nms-compare soft": (
            "nms-compare",
            candidates,
            "--method",
            "soft sigma=0.1",
            "--method",
            "matrix kernel=linear",
            "--bootstrap",
            50,
        ),
        "compare": ("compare", run, at / "with_diou", "--bootstrap", 50, "--at-score", "best"),
        "lr-scale": ("lr-scale", "atss_r18_shapes", *small, "--gpus", 4),
        "ablate": (
            "ablate",
            "atss_r18_shapes",
            *small,
            "--tricks",
            "diou,label-smoothing",
            "--budget",
            1,
            "--bootstrap",
            50,
            "--out",
            at / "ablation",
        ),
        "preview": ("data", "preview", "atss_r18_shapes", *small, "--trick", "mosaic", "--num", 4),
        "recipes diff": ("recipes", "diff", "atss_r18_shapes", "vfnet_r18_shapes"),
        "export": ("export", run, "--out", at / "exported.pt"),
        "profile": ("profile", "atss_r18_shapes", "--what", "model", "--seconds", 0.1),
    }
    detcli(
        "train",
        "atss_r18_shapes",
        *SHAPES,
        *SHORT,
        "model.box_loss.name=diou",
        "train.seed=1",
        "--out",
        at / "with_diou",
        "--quiet",
        cwd=at,
    )
    return {
        name: numbers(json.loads(detcli(*words, "--json", "--quiet", cwd=at)), at)
        for name, words in calls.items()
    }


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """The places where two recordings differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in differences(before.get(key), after.get(key), f"{path}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [
            line
            for index, (a, b) in enumerate(pairs)
            for line in differences(a, b, f"{path}/{index}")
        ]
    return [] if before == after else [f"{path}: {before!r} -> {after!r}"]


def record(only: str) -> dict[str, Any]:
    """Everything, or the recipes and verbs whose name contains `only`."""
    names = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    small = [name for name in names if name.endswith("_shapes")]
    small += [name for name in names if "r18_bccd" in name and SHARED.exists()]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        for name in small:
            if only in name:
                result[name] = train(name, at)
                print(name, file=sys.stderr)
        if "atss_r18_shapes" in result:
            result["verbs"] = verbs(at)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="Recipes whose name contains this.")
    options = parser.parse_args()
    recorded = record(options.only)
    if options.command == "record":
        options.file.write_text(json.dumps(recorded))
        return 0
    before = json.loads(options.file.read_text())
    found = differences({key: before[key] for key in recorded}, json.loads(json.dumps(recorded)))
    print("\n".join(found) or f"{len(recorded)} recordings are equal")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
