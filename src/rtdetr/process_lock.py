"""A lock between the threads of one process that is released in a forked child."""

import contextlib
import os
import threading
from collections.abc import Iterator


class ProcessLock:
    """A lock that a fork releases in the child, where the thread that held it no longer exists.

    Keep it for the lifetime of the process, for example in a module.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, *, blocking: bool = True) -> Iterator[bool]:
        """Hold the lock in a block; yields whether it is held, which can be False only without `blocking`."""
        lock = self._lock  # the one to release, even in a child forked inside the block
        held = lock.acquire(blocking)
        try:
            yield held
        finally:
            if held:
                lock.release()
