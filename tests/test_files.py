"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from rtdetr.errors import WeightsError
from rtdetr.files import write_atomically


def test_replaces_and_creates_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.pth"
    assert write_atomically(path, lambda temporary: temporary.write_text("one"), error=WeightsError) == path
    write_atomically(path, lambda temporary: temporary.write_text("two"), error=WeightsError)
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.pth"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_text("old")

    def killed(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, killed, error=WeightsError)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.pth"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x.pth", lambda temporary: temporary.write_text("x"), error=WeightsError)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        write_atomically(tmp_path / "folder.pth", lambda temporary: temporary.write_text("x"), error=WeightsError)
