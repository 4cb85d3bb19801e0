"""The first stop signal is noted, the second one takes effect, and handlers are restored afterwards."""

import signal
import threading

import pytest

from rtdetr.training.signals import StopSignals, exit_status


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_noted_and_the_second_has_its_former_effect(name):
    number = getattr(signal, name)
    heard = []
    former = signal.signal(number, lambda *_: heard.append(name))
    try:
        with StopSignals() as stop:
            assert stop.received is None
            signal.raise_signal(number)
            assert (stop.received, heard) == (name, [])
            signal.raise_signal(number)
            assert heard == [name]
    finally:
        signal.signal(number, former)


def test_handlers_are_restored_without_a_signal():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_exit_status_is_that_of_shells():
    assert (exit_status("SIGINT"), exit_status("SIGTERM")) == (130, 143)


def test_other_threads_have_no_signals():
    seen = []

    def run() -> None:
        with StopSignals() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
