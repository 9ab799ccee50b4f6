import pytest

from detcli.engine.run import run_folder
from detcli.errors import CheckpointError, UsageError


def test_numbers_go_up_and_nothing_is_reused(tmp_path):
    first = run_folder.create("a", None, tmp_path)
    second = run_folder.create("a", None, tmp_path)
    assert [first.name, second.name] == ["1", "2"]
    first.rmdir()
    assert run_folder.create("a", None, tmp_path).name == "3"


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--resume"):
        run_folder.create("a", tmp_path)
    assert run_folder.create("a", tmp_path / "new").is_dir()


def test_newest_is_the_highest_number_with_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        run_folder.newest("a", tmp_path)
    for number in (2, 10, 11):
        (tmp_path / "a" / str(number)).mkdir(parents=True)
    for number in (2, 10):
        (tmp_path / "a" / str(number) / "last.pt").touch()
    assert run_folder.newest("a", tmp_path).name == "10"
