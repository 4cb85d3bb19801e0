"""A lock among the threads of one process, which is free again in a forked child."""

import contextlib
import os
import threading
from collections.abc import Iterator


class ProcessLock:
    """A lock that a fork frees in the child, where the thread that held it is not there any more.

    It is to live as long as the process.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, *, blocking: bool = True) -> Iterator[bool]:
        """Hold the lock in a block; gives whether it is held, which without `blocking` may be False."""
        lock = self._lock  # the one to release, also in a child that was forked in the block
        held = lock.acquire(blocking)
        try:
            yield held
        finally:
            if held:
                lock.release()
