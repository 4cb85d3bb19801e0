"""Detections on their way through an evaluation: in memory while they are few, then in an unnamed temporary file.

`CocoEvaluator` (`coco.py`) appends the detections of an image, sorts them by class into a second spool, and reads them
back some images or some classes at a time, so that its memory does not follow the number of images.
"""

import contextlib
import tempfile
import weakref
from collections.abc import Iterator

import numpy as np

from rtdetr.errors import InputError

ROW = np.dtype(
    [
        ("image", np.int32),  # position in the dataset
        ("label", np.int32),
        ("score", np.float32),
        ("box_xyxy", np.float32, 4),
    ]
)
_IN_MEMORY = 2**20  # bytes; more than these 37,000 detections go to disk


class Spool:
    """Rows of `ROW` that can be written and read, in a file that vanishes with this object or its process."""

    def __init__(self) -> None:
        """Start without rows."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)
        self._num_rows = 0

    def __len__(self) -> int:
        """How many rows there are."""
        return self._num_rows

    def append(self, rows: np.ndarray) -> None:
        """Add rows at the end; errors are those of `write`."""
        self.write(self._num_rows, rows)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Put rows at the positions from `start` on.

        Raises:
            InputError: the disk is full, or there is no folder for temporary files; all rows are lost.
        """
        with self._told_when_full():
            self._file.seek(start * ROW.itemsize)
            self._file.write(rows.tobytes())
            self._file.flush()  # a full disk shows here, not when the rows are read
        self._num_rows = max(self._num_rows, start + len(rows))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows start:stop, as far as there are any; the array cannot be written to.

        Raises:
            InputError: the rows were lost.
        """
        stop = min(stop, self._num_rows)
        with self._told_when_full():
            self._file.seek(start * ROW.itemsize)
            return np.frombuffer(self._file.read((stop - start) * ROW.itemsize), ROW)

    @contextlib.contextmanager
    def _told_when_full(self) -> Iterator[None]:
        if self._file.closed:
            raise InputError(
                "the detections of this evaluation were lost when they could not be written; start the evaluation again"
            )
        try:
            yield
        except OSError as error:
            _close(self._file)  # it may lack rows in the middle
            folder = tempfile.tempdir or "a folder for temporary files"
            raise InputError(
                f"cannot keep the detections of an evaluation in {folder}: {error.strerror or error}; make room there, "
                "or name another folder in the environment variable TMPDIR"
            ) from error


def _close(file: tempfile.SpooledTemporaryFile[bytes]) -> None:
    with contextlib.suppress(OSError):  # rows that do not fit on the disk
        file.close()
