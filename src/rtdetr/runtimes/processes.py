"""Detectors in several processes: pickled, copied, or inherited by a fork."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtdetr.native import never_free
from rtdetr.process_lock import ProcessLock
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.options import DEFAULTS, LoadOptions

_opening = ProcessLock()


class FileDetector(BaseDetector):
    """A detector with an engine opened from a file, which is opened again in other processes and for copies.

    Engines have their own threads and memory, which neither a pickle nor a fork includes. A pickle or copy contains the
    path and the options; after a fork, the first call in the child opens the file again.
    """

    _opened_with: tuple[Path, LoadOptions]

    def __new__(cls, path: Path, options: LoadOptions = DEFAULTS):  # returns the class itself
        """Store the arguments that the detector is opened with."""
        detector = super().__new__(cls)
        detector._opened_with = Path(path).absolute(), options
        return detector

    @property
    def path(self) -> Path:
        """The file that the engine was opened from."""
        return self._opened_with[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (type(self), *self._opened_with)

    def enter_fork(self) -> None:
        """Open the file again."""
        with _opening.hold():
            if self.process == os.getpid():  # another thread has done it
                return
            fresh = vars(_open(type(self), *self._opened_with))
            never_free(dict(vars(self)))  # the parent's engine, which would wait for threads that do not exist here
            for name in vars(self).keys() - fresh.keys():
                delattr(self, name)
            vars(self).update({**fresh, "process": self.process})
            self.process = os.getpid()  # last, because other threads continue when they see it


def _open(kind: Callable[..., BaseDetector], path: Path, options: LoadOptions) -> BaseDetector:
    return kind(path, options)
