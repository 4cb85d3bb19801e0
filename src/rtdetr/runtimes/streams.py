"""Streams: several batches of a list run at the same time, each on its share of the cores.

One image on all cores has the lowest latency. For a list, several streams give a higher throughput, because a part of a
network's work does not split well over cores, and threads that share one batch wait for each other.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rtdetr.config import Size
from rtdetr.runtimes.outputs import Batch, Output
from rtdetr.strict import Strict
from rtdetr.wording import counted


class Streams(Strict):
    """How a detector runs a list of images on a CPU.

    Attributes:
        num_streams: batches that run at the same time.
        num_threads: CPU threads of each.
        batch_size: largest number of images per batch; the `batch_size` of a call can lower it.
    """

    num_streams: Size = 1
    num_threads: Size = 1
    batch_size: Size = 1

    def __str__(self) -> str:
        streams = f"{counted(self.num_streams, 'stream')} of {counted(self.num_threads, 'thread')}"
        return f"{streams}, batch size {self.batch_size}"


def run_in_threads(
    run: Callable[[Batch], Output],
    batches: Iterable[Batch],
    *,
    num_threads: int,
    start: Callable[[], Any] | None = None,
) -> Iterator[tuple[Batch, Output]]:
    """Run several batches at the same time, each in a thread, and yield the outputs in order.

    One more batch waits, so that a thread always has work. If a batch fails, or the caller stops early, batches that
    wait are dropped, and those that run are waited for.

    Args:
        run: runs one batch and waits for its result.
        batches: taken one by one, in the thread of the caller.
        num_threads: batches that run at the same time.
        start: called once in each thread.
    """
    running: deque[tuple[Batch, Future[Output]]] = deque()
    with ThreadPoolExecutor(num_threads, "rtdetr-stream", initializer=start) as pool:
        try:
            for batch in batches:
                if len(running) > num_threads:
                    yield _oldest(running)
                running.append((batch, pool.submit(run, batch)))
            while running:
                yield _oldest(running)
        finally:
            for _, future in running:
                future.cancel()


def _oldest(running: "deque[tuple[Batch, Future[Output]]]") -> tuple[Batch, Output]:
    batch, future = running.popleft()
    return batch, future.result()
