"""Ending a run early without losing it: the first Ctrl-C or SIGTERM asks, the second one acts at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_status(name: str) -> int:
    """Return what a process that a signal ended exits with, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal.Signals[name]


class StopSignals:
    """While active, a first SIGINT or SIGTERM only sets `received`; then the former handlers are back in place.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        patient: later signals change nothing either: torchrun repeats a Ctrl-C as SIGTERM to every process, and kills
            those that take longer than half a minute itself.

    Attributes:
        received: name of the signal that came, such as "SIGTERM"; None as long as the run may go on.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self.received: str | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
