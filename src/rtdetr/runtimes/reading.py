"""The one pool of threads that opens images for detectors: those of the next batches, while the network works."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rtdetr.errors import InputError

Ready = TypeVar("Ready")


def read_ahead(
    sources: Sequence[Any], read: Callable[[Any], Ready], *, group: int, ahead: int
) -> Iterator[list[Ready | InputError]]:
    """Call `read` on every source in threads and give the results in order, `group` at a time.

    An object that stands in several places is read once.

    Args:
        sources: what to read.
        read: opens and prepares one of them.
        group: how many results are given together.
        ahead: how many sources beyond these are read meanwhile; as many threads work, but no more than there are cores.

    Returns:
        Of each source what `read` returns, or the `InputError` that it raises.
    """
    if len(sources) == 1:  # a thread would take longer to start
        yield [_tried(read, sources[0])]
        return
    places = Counter(map(id, sources))  # that are still to come
    repeated: dict[int, Future[Ready | InputError]] = {}
    reading: deque[Future[Ready | InputError]] = deque()
    submitted = 0
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1)) as pool:
        for start in range(0, len(sources), group):
            end = min(start + group, len(sources))
            for source in sources[submitted : end + ahead]:
                key = id(source)
                places[key] -= 1
                future = repeated.pop(key, None) or pool.submit(_tried, read, source)
                if places[key]:
                    repeated[key] = future
                reading.append(future)
                submitted += 1
            yield [reading.popleft().result() for _ in range(start, end)]


def _tried(read: Callable[[Any], Ready], source: Any) -> Ready | InputError:
    try:
        return read(source)
    except InputError as error:
        return error
