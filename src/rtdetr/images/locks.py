"""One lock per object that images are read from: Pillow and file objects support only one reader at a time."""

import contextlib
import os
import threading
from collections.abc import Iterator

_guard = threading.Lock()
_locks: dict[int, tuple[threading.RLock, int]] = {}  # id of an object -> its lock and number of users


@contextlib.contextmanager
def only_reader(*objects: object) -> Iterator[None]:
    """Lock these objects for the block, so that no other thread reads from them.

    Several objects are locked in the given order; None is skipped.
    """
    with contextlib.ExitStack() as stack:
        for each in objects:
            if each is not None:
                stack.enter_context(_locked(each))
        yield


@contextlib.contextmanager
def _locked(each: object) -> Iterator[None]:
    key = id(each)  # images have no hash; the caller keeps the object alive in the block
    with _guard:
        lock, users = _locks.get(key, (threading.RLock(), 0))
        _locks[key] = lock, users + 1
    try:
        with lock:
            yield
    finally:
        with _guard:
            lock, users = _locks.pop(key)
            if users > 1:
                _locks[key] = lock, users - 1


def _forget() -> None:
    """Reset all locks in a forked child, in which the threads that held them do not exist."""
    global _guard
    _guard = threading.Lock()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
