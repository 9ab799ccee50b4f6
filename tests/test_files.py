"""A file is written whole or not at all."""

import pytest

from detcli.errors import OutputError
from detcli.files import write_atomically


@pytest.mark.parametrize(
    "content", ["text, ä\n", "text, ä\n".encode(), lambda file: file.write("text, ä\n".encode())]
)
def test_text_bytes_and_writers_give_the_same_file(content, tmp_path):
    write_atomically(tmp_path / "new" / "a.txt", content)
    assert (tmp_path / "new" / "a.txt").read_bytes() == "text, ä\n".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def full_disk(file):
    file.write(b"half")
    raise OSError(28, "No space left on device")


def interrupted(file):
    file.write(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("writer", "error"), [(full_disk, OutputError), (interrupted, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(writer, error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_atomically(path, writer)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "a" / "b.txt", "text")
