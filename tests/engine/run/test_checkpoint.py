import os
import pickle

import pytest
import torch

from detcli.engine.run import checkpoint
from detcli.errors import CheckpointError, OutputError

CONTENT = {
    "recipe": {"name": "x"},
    "class_names": ["a"],
    "category_ids": [7],
    "model": {"w": torch.arange(4.0)},
}


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/detcli-was-here",))


def test_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, CONTENT)
    content = checkpoint.load(path)
    assert torch.equal(content["model"]["w"], CONTENT["model"]["w"])
    assert content["category_ids"] == [7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, CONTENT)

    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="no space"):
        checkpoint.save(path, CONTENT | {"class_names": ["b"]})
    assert checkpoint.load(path)["class_names"] == ["a"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def broken_files(folder):
    good = folder / "good.pt"
    checkpoint.save(good, CONTENT)
    (folder / "truncated.pt").write_bytes(good.read_bytes()[:-200])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("hello")
    torch.save({"state_dict": {"w": torch.zeros(1)}}, folder / "foreign.pt")
    torch.save({"evil": Evil()}, folder / "evil.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"format": 99}, folder / "future.pt")
    torch.save({"format": 1}, folder / "hollow.pt")
    torch.save(torch.zeros(2), folder / "tensor.pt")
    return [
        "truncated",
        "empty",
        "text",
        "foreign",
        "evil",
        "pickle",
        "future",
        "hollow",
        "tensor",
        "absent",
    ]


def test_anything_else_is_one_clear_line(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(tmp_path / f"{name}.pt")
        assert f"{name}.pt" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3
    assert not os.path.exists("/tmp/detcli-was-here")


def test_find_prefers_the_best(tmp_path):
    with pytest.raises(CheckpointError, match="neither"):
        checkpoint.find(tmp_path)
    (tmp_path / "last.pt").touch()
    assert checkpoint.find(tmp_path).name == "last.pt"
    (tmp_path / "best.pt").touch()
    assert checkpoint.find(tmp_path).name == "best.pt"
    with pytest.raises(CheckpointError, match="no such"):
        checkpoint.find(tmp_path / "absent")
