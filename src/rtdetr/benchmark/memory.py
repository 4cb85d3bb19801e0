"""Load and run one model, and print the peak memory: `python -m rtdetr.benchmark.memory JOB`."""

import json
import sys
from pathlib import Path

from rtdetr.benchmark.measure import sample_photo
from rtdetr.runtimes import load


def highest_mb() -> float | None:
    """Peak memory of this process so far, on Linux; None on other systems."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return round(int(lines["VmHWM"].split()[0]) / 1024, 1)  # unlike ru_maxrss, not inherited from the parent


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    detector = load(job["source"], **job["options"])
    detector([sample_photo(detector.in_channels)] * job["batch_size"], batch_size=job["batch_size"])
    sys.stdout.write(f"{highest_mb()}\n")
