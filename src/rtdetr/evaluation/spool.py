"""Storage for the detections of an evaluation: first in memory, then in an unnamed temporary file.

`CocoEvaluator` (`coco.py`) appends the detections of each image, sorts them by class into a second spool, and reads
them back for some images or classes at a time, so its memory does not grow with the number of images.
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
_IN_MEMORY = 2**20  # bytes, about 37,000 detections; more go to disk


class Spool:
    """Rows of `ROW` in a temporary file, which is deleted with this object or its process."""

    def __init__(self) -> None:
        """Start without rows."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)
        self._num_rows = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def append(self, rows: np.ndarray) -> None:
        """Append rows; errors are those of `write`."""
        self.write(self._num_rows, rows)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Write rows at `start` and after.

        Raises:
            InputError: the disk is full, or there is no folder for temporary files. All rows are lost.
        """
        with self._explain_errors():
            self._file.seek(start * ROW.itemsize)
            self._file.write(rows.tobytes())
            self._file.flush()  # a full disk fails here, not when rows are read
        self._num_rows = max(self._num_rows, start + len(rows))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the existing rows of start:stop as a read-only array.

        Raises:
            InputError: the rows were lost.
        """
        stop = min(stop, self._num_rows)
        with self._explain_errors():
            self._file.seek(start * ROW.itemsize)
            return np.frombuffer(self._file.read((stop - start) * ROW.itemsize), ROW)

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        if self._file.closed:
            raise InputError(
                "the detections of this evaluation were lost because they could not be written: run it again"
            )
        try:
            yield
        except OSError as error:
            _close(self._file)  # rows in the middle may be missing
            folder = tempfile.tempdir or "a folder for temporary files"
            raise InputError(
                f"cannot write the detections of an evaluation to {folder}: {error.strerror or error}. Free some "
                "space, or set the environment variable TMPDIR to another folder"
            ) from error


def _close(file: tempfile.SpooledTemporaryFile[bytes]) -> None:
    with contextlib.suppress(OSError):  # rows that do not fit on the disk
        file.close()
