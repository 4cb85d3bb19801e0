"""A killed run that is resumed gives the same result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_give_the_same_result_as_an_uninterrupted_one():
    script = Path(__file__).parents[2] / "benchmarks" / "resume.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--kills", "2,9,14"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("losses differ by 0.0, 0 saved entries differ") == 3
