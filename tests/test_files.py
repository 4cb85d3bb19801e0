"""Files are written completely or not at all."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from rtdetr import files
from rtdetr.errors import WeightsError
from rtdetr.files import files_together, write_atomically


def test_replaces_and_creates_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.pth"
    assert write_atomically(path, lambda temporary: temporary.write_text("one"), error=WeightsError) == path
    write_atomically(path, lambda temporary: temporary.write_text("two"), error=WeightsError)
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.pth"]


@pytest.mark.parametrize("name", ["a" * 251 + ".pth", "ö" * 125 + ".pth", "𝛼" * 62 + ".pth"])
def test_names_as_long_as_file_systems_take_them(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, lambda temporary: temporary.write_text("one"), error=WeightsError)
    with files_together(tmp_path / name, error=WeightsError) as file:
        write_atomically(file, lambda temporary: temporary.write_text("two"), error=WeightsError)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "two"


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_text("old")

    def killed(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, killed, error=WeightsError)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.pth"]


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=rf"cannot write .*: {tmp_path / 'file'} is a file, not a folder\. Choose"):
        write_atomically(tmp_path / "file" / "x.pth", lambda temporary: temporary.write_text("x"), error=WeightsError)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        write_atomically(tmp_path / "folder.pth", lambda temporary: temporary.write_text("x"), error=WeightsError)


class Full:
    """A disk that takes 100 bytes, as libraries and the system tell of it."""

    def __init__(self, *, hidden: bool) -> None:
        self.hidden = hidden

    def __call__(self, temporary: Path) -> None:
        temporary.write_bytes(bytes(100))
        raise RuntimeError("unexpected pos 576 vs 534") if self.hidden else OSError(errno.ENOSPC, "No space left")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_full_disk_is_reported(tmp_path, monkeypatch, hidden):
    def more(file: Path) -> OSError:
        assert file.exists()
        return OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(files, "_append_error", more)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_900_000))
    with pytest.raises(WeightsError) as caught:
        write_atomically(tmp_path / "x.pth", Full(hidden=hidden), error=WeightsError, size=91_400_000)
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'x.pth'}: the disk is full (1.9 MB free there, the file needs 91.4 MB). "
        "Free some space, or choose another location"
    )
    assert os.listdir(tmp_path) == []


def test_the_reason_of_a_library_is_kept_without_a_system_error(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot write .*x\.pth: unexpected pos 576 vs 534 \(.* free there\)"):
        write_atomically(tmp_path / "x.pth", Full(hidden=True), error=WeightsError)


def test_errors_name_the_final_path(tmp_path):
    with pytest.raises(WeightsError) as caught, files_together(tmp_path / "x.xml", error=WeightsError) as file:
        write_atomically(file, Full(hidden=False), error=WeightsError)
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'x.xml'}: the disk is full")
    assert os.listdir(tmp_path) == []
