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
    """A detector whose engine was opened from a file, and is opened again wherever it cannot come along.

    Engines have threads and memory of their own that neither a pickle nor a fork takes with it. A pickle or copy holds
    the path and the options; after a fork the first call in the child opens the file anew.
    """

    _opened_with: tuple[Path, LoadOptions]

    def __new__(cls, path: Path, options: LoadOptions = DEFAULTS):  # of the class itself
        """Note what the detector is opened with."""
        detector = super().__new__(cls)
        detector._opened_with = Path(path).absolute(), options
        return detector

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (type(self), *self._opened_with)

    def enter_fork(self) -> None:
        """Open the file again."""
        with _opening.hold():
            if self.process == os.getpid():  # another thread did it meanwhile
                return
            fresh = vars(_open(type(self), *self._opened_with))
            never_free(dict(vars(self)))  # the parent's engine, which would wait for threads that are not here
            for name in vars(self).keys() - fresh.keys():
                delattr(self, name)
            vars(self).update({**fresh, "process": self.process})
            self.process = os.getpid()  # last, as other threads go on when they see it


def _open(kind: Callable[..., BaseDetector], path: Path, options: LoadOptions) -> BaseDetector:
    return kind(path, options)
