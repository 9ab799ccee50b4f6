import ipaddress
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from detcli.engine.run.distributed import launch
from detcli.models import DETECTORS
from tests.data.build import write_image
from tests.distributed.joint_batch import CASES, COMBINATIONS
from tests.models.specs import SMALL_OF
from tests.paths import ROOT
from tests.recipes import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """What one pair of processes found for every detector."""
    path = tmp_path_factory.mktemp("gradients") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert launch(2, ["-m", "tests.distributed.gradients", str(path)]) == 0
    return json.loads(path.read_text())


def test_every_detector_is_among_them():
    assert set(CASES) > set(DETECTORS)


@pytest.mark.parametrize(("case", "kind"), COMBINATIONS)
def test_gradients_equal_those_of_the_joint_batch(differences, case, kind):
    """PEERS 11: a rank without objects neither hangs nor shifts the gradients."""
    found = differences[f"{case}/{kind}"]
    worst = max(found, key=found.get)
    # NAS-FCOS's deformable convolutions one after another magnify rounding
    assert found[worst] <= (1e-3 if case == "nas_fcos" else 1e-5), worst


def start_on_two(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """A training over two processes."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "detcli",
            "train",
            str(recipe),
            "--gpus",
            "2",
            "--device",
            "cpu",
            "--json",
            "--out",
            str(out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a training that must succeed says at its end."""
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return said


def lines_of(out: Path, kind: str) -> list[dict]:
    """The lines of metrics.jsonl of a kind."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_it_trains_on_two_processes_logs_once_and_opens_no_port_to_others(tmp_path):
    out = tmp_path / "run"
    process = start_on_two(write_tiny(tmp_path, schedule={"epochs": 3}), out)
    try:
        while not (out / "metrics.jsonl").exists():  # the ranks have found each other
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        family = children(process.pid)
        assert len(family) == 3
        addresses = {address for pid in family for address in listening(pid)}
        assert addresses, "the ranks do not talk to each other"
        assert all(address.is_loopback for address in addresses), addresses
        assert json.loads(finish(process))["run"] == str(out)
    finally:
        process.kill()
    rates = [line for line in (out / "log.txt").read_text().splitlines() if "learning rate" in line]
    assert len(rates) == 1
    assert "4 images per step (2 per rank x 2 ranks x 1 accumulated)" in rates[0]
    assert len(lines_of(out, "train")) == 3 * 2  # 8 images, 4 per step


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_images_of_very_different_sizes_and_ranks_without_objects(tmp_path, name):
    """Each rank pads its own batch of two; half of the batches have no object."""
    sizes = [(96, 24), (20, 96), (64, 64), (16, 16)] * 4
    images, objects = [], []
    for number, (height, width) in enumerate(sizes):
        write_image(tmp_path / "images" / f"{number}.jpg", (height, width), seed=number)
        entry = {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
        images.append(entry)
        if number < len(sizes) // 4:
            objects.append({"image_id": number, "category_id": 1, "bbox": [2, 2, 12, 10]})
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    split = {"images": "images", "annotations": "all.json"}
    data = {
        "format": "coco",
        "root": str(tmp_path),
        "shapes": None,
        "train": split,
        "val": {**split},
        "resize": {"short": [16, 96], "long": 96},
    }
    recipe = write_tiny(tmp_path, data=data)
    content = yaml.safe_load(recipe.read_text())
    small = {**SMALL_OF[name], "name": name}
    small["backbone"] = {**small["backbone"], "weights": None}
    changes = {"model": small, "postprocess": {"method": "none"}}
    recipe.write_text(yaml.safe_dump({**content, **changes}))
    finish(start_on_two(recipe, tmp_path / "run"))
    steps = lines_of(tmp_path / "run", "train")
    assert len(steps) == 2 * len(sizes) // 4
    assert all(math.isfinite(step["loss"]) for step in steps)


def test_exit_code_of_a_failing_rank_comes_through(tmp_path):
    recipe = write_tiny(tmp_path)
    (tmp_path / "shapes").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "detcli", "train", str(recipe), "--gpus", "2", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 3, done.stderr


def children(pid: int) -> list[int]:
    """A process and all its descendants."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in tasks for child in path.read_text().split()]
    return [pid, *(each for child in found for each in children(child))]


def listening(pid: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses at which a process waits for connections (Linux)."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # state LISTEN
                found.append(address_of(fields[1].split(":")[0]))
    return found


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """From the kernel's form: 32-bit words in the machine's byte order."""
    packed = b"".join(bytes.fromhex(text[n : n + 8])[::-1] for n in range(0, len(text), 8))
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address
