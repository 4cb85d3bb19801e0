import errno
import gc
import io
import os
import tempfile

import numpy as np
import pytest

from rtdetr.errors import InputError
from rtdetr.evaluation import spool
from rtdetr.evaluation.spool import ROW, Spool


class FullDisk(io.BytesIO):
    """A file on a disk that has room for some bytes."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, content):
        if self.tell() + len(content) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def some_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.empty(count, ROW)
    rows["image"], rows["label"] = rng.integers(0, 2**31, (2, count))
    rows["score"], rows["box_xyxy"] = rng.random(count), rng.uniform(-9, 9999, (count, 4))
    return rows


@pytest.mark.parametrize("in_memory", [1, 28 * 40, 2**20])
def test_rows_can_be_read_while_others_are_appended(monkeypatch, in_memory):
    monkeypatch.setattr(spool, "_IN_MEMORY", in_memory)
    rows, kept = some_rows(100), Spool()
    for start, stop in ((0, 1), (1, 1), (1, 60), (60, 100)):
        kept.append(rows[start:stop])
        assert len(kept) == stop
        np.testing.assert_array_equal(kept.read(0, stop), rows[:stop])
        np.testing.assert_array_equal(kept.read(stop // 2, 1000), rows[stop // 2 : stop])
    assert len(kept.read(100, 120)) == len(kept.read(7, 7)) == 0


def test_few_rows_stay_in_memory_and_many_leave_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    rows, kept = some_rows(37_000), Spool()
    kept.append(rows)
    np.testing.assert_array_equal(kept.read(0, 37_000), rows)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept.append(rows)
    np.testing.assert_array_equal(kept.read(37_000, 74_000), rows)
    del kept
    gc.collect()  # a file left open would be a warning
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [0, 50_000], ids=["first", "later"])
def test_a_full_disk_is_an_error_and_never_gives_wrong_rows(monkeypatch, before):
    monkeypatch.setattr(tempfile, "tempdir", "/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk(before * ROW.itemsize))
    kept = Spool()
    if before:
        kept.append(some_rows(before))
    with pytest.raises(InputError, match=r"cannot write .* to /full: No space left on device\. .* TMPDIR to another"):
        kept.append(some_rows(50_000))
    with pytest.raises(InputError, match="were lost"):
        kept.append(some_rows(1))
    with pytest.raises(InputError, match="were lost"):
        kept.read(0, 1)


def test_without_a_folder_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"to .*missing: No such file or directory"):
        Spool().append(some_rows(50_000))
