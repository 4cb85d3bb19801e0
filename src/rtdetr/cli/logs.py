"""Logging of the command line: to standard error, and only once for runs with several processes."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from rtdetr.errors import LOG_RECORDS_VARIABLE, is_first_report

_warned: set[str] = set()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the library's log records to standard error.

    A warning that repeats an earlier one is not shown. All processes of a run log the same messages, so only those of
    the main process are shown. Records about one process, such as an image in its share, have the attribute
    `of_one_process` (`extra=` of the logging call).

    Args:
        level: lowest level that is shown.
    """
    _warned.clear()
    if not logging.getLogger().handlers:
        logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_new)
    logging.getLogger("rtdetr").setLevel(level)
    if os.environ.get("RANK", "0") != "0":
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_of_one_process)


@contextlib.contextmanager
def once_per_command() -> Iterator[None]:
    """Log each warning of the block once, also those of worker processes that it starts."""
    if LOG_RECORDS_VARIABLE in os.environ:  # a process of a run with several
        yield
        return
    with tempfile.TemporaryDirectory(prefix="rtdetr-") as folder:
        os.environ[LOG_RECORDS_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[LOG_RECORDS_VARIABLE]


def _is_new(record: logging.LogRecord) -> bool:
    """Whether a record is not a warning that this command has already logged."""
    if record.levelno != logging.WARNING:
        return True
    line = record.getMessage()
    is_new = line not in _warned and is_first_report(line)
    _warned.add(line)
    return is_new


def _is_of_one_process(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or getattr(record, "of_one_process", False)
