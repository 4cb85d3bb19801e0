"""Stop signals: the first Ctrl-C or SIGTERM ends the run after the current step, the second one immediately."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_status(name: str) -> int:
    """Return the exit status of a process ended by a signal, as in shells: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal.Signals[name]


class StopSignals:
    """While active, the first SIGINT or SIGTERM only sets `received` and restores the previous handlers.

    Outside the main thread, where Python delivers no signals, this does nothing.

    Args:
        patient: also ignore later signals. torchrun forwards Ctrl-C as SIGTERM to every process, and kills processes
            that need more than half a minute to end.

    Attributes:
        received: name of the signal received, such as "SIGTERM"; None if there was none.
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
