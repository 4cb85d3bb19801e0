"""What several processes of a run log: each line once."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging
from rtdetr.cli.logs import log_to_stderr
log_to_stderr()
log = logging.getLogger("rtdetr.training.setup")
log.debug("details")
log.info("weights of a.pth")
log.warning("warm-up is long")
log.warning("left out: 7.jpg", extra={"of_one_process": True})
log.error("broken")
"""


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (None, ["INFO: weights of a.pth", "WARNING: warm-up is long", "WARNING: left out: 7.jpg", "ERROR: broken"]),
        ("0", ["INFO: weights of a.pth", "WARNING: warm-up is long", "WARNING: left out: 7.jpg", "ERROR: broken"]),
        ("1", ["WARNING: left out: 7.jpg", "ERROR: broken"]),
    ],
)
def test_shared_messages_are_logged_by_the_main_process_only(rank: str | None, expected: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {} if rank is None else {"RANK": rank}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines() == expected


ONCE = """
import logging, os
from rtdetr.cli.logs import log_to_stderr, once_per_command
log_to_stderr()
log = logging.getLogger("rtdetr.data")
with once_per_command():
    if not (child := os.fork()):
        log.warning("skipped: 7.jpg")
        os._exit(0)
    os.waitpid(child, 0)
    log.warning("skipped: 7.jpg")
    log.warning("skipped: 8.jpg")
log.warning("skipped: 8.jpg")
log.info("step"), log.info("step")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_a_warning_is_shown_once_whichever_process_logs_it() -> None:
    ran = subprocess.run([sys.executable, "-c", ONCE], capture_output=True, text=True, check=True)
    shown = ["WARNING: skipped: 7.jpg", "WARNING: skipped: 8.jpg", "INFO: step", "INFO: step"]
    assert ran.stderr.splitlines() == shown
