"""The thread pool that opens images for detectors: it reads the next batches while the network runs."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from rtdetr.errors import InputError
from rtdetr.machine import num_cores

Ready = TypeVar("Ready")


def read_ahead(
    sources: Sequence[Any], read: Callable[[Any], Ready], *, group: int, ahead: int
) -> Iterator[list[Ready | InputError]]:
    """Call `read` on every source in threads and yield the results in order, `group` at a time.

    An object that occurs several times in `sources` is read once.

    Args:
        sources: the sources to read.
        read: opens and prepares one source.
        group: number of results to yield together.
        ahead: number of sources to read ahead of these, and of threads, up to the number of cores.

    Returns:
        For each source, the result of `read` or the `InputError` that it raised.
    """
    if len(sources) == 1:  # a thread would take longer to start
        yield [_try_read(read, sources[0])]
        return
    remaining = Counter(map(id, sources))
    repeated: dict[int, Future[Ready | InputError]] = {}
    reading: deque[Future[Ready | InputError]] = deque()
    submitted = 0
    with ThreadPoolExecutor(min(ahead, num_cores())) as pool:
        for start in range(0, len(sources), group):
            end = min(start + group, len(sources))
            for source in sources[submitted : end + ahead]:
                key = id(source)
                remaining[key] -= 1
                future = repeated.pop(key, None) or pool.submit(_try_read, read, source)
                if remaining[key]:
                    repeated[key] = future
                reading.append(future)
                submitted += 1
            yield [reading.popleft().result() for _ in range(start, end)]


def _try_read(read: Callable[[Any], Ready], source: Any) -> Ready | InputError:
    try:
        return read(source)
    except InputError as error:
        return error
