"""Logging of the command line: to standard error, and only once for runs with several processes."""

import logging
import os
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the library's log records to standard error.

    All processes of a run log the same messages, so only those of the main process are shown. Records about one
    process, such as an image in its share, have the attribute `of_one_process` (`extra=` of the logging call).

    Args:
        level: lowest level that is shown.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    logging.getLogger("rtdetr").setLevel(level)
    if os.environ.get("RANK", "0") != "0":
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_of_one_process)


def _is_of_one_process(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or getattr(record, "of_one_process", False)
