"""What the command lines log: on standard error, and for a run of several processes once."""

import logging
import os
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the library's log records to standard error.

    All processes of a run log the same, so only the main one is heard. Records about what one process alone met, such
    as an image of its share, have the attribute `of_one_process` (`extra=` of the call that logs them).

    Args:
        level: least important records that are shown.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    logging.getLogger("rtdetr").setLevel(level)
    if os.environ.get("RANK", "0") != "0":
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_of_one_process)


def _is_of_one_process(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or getattr(record, "of_one_process", False)
