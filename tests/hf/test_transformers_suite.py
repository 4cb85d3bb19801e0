"""The tests of transformers for all models pass for our classes if they pass for stock ones, with known exceptions.

They are in its source distribution: `pip download --no-deps --no-binary :all: transformers==VERSION`, unpack it, set
TRANSFORMERS_TESTS to the folder `tests` inside, and install the package parameterized.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).with_name("transformers_suite.py")
# the table "Transformers' own tests" of docs/huggingface.md
KNOWN = ("test_batching_equivalence", "test_eager_matches_sdpa_inference")


@pytest.mark.slow
@pytest.mark.skipif("TRANSFORMERS_TESTS" not in os.environ, reason="TRANSFORMERS_TESTS names no folder of tests")
def test_tests_that_stock_classes_pass(tmp_path: Path) -> None:
    pytest.importorskip("parameterized")
    report, settings = tmp_path / "report.xml", tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")  # not ours, by which a warning is an error
    command = [sys.executable, "-m", "pytest", "-q", "-c", settings, "-W", "ignore", SUITE, f"--junit-xml={report}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert "StockTest" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]  # both have failures of their own
    cases = {"OursTest": set(), "StockTest": set()}
    failed = {"OursTest": set(), "StockTest": set()}
    for case in ElementTree.parse(report).iter("testcase"):
        who = case.attrib["classname"].rpartition(".")[2]
        cases[who].add(case.attrib["name"])
        if case.find("failure") is not None or case.find("error") is not None:
            failed[who].add(case.attrib["name"])
    assert cases["OursTest"] == cases["StockTest"] and len(cases["OursTest"]) > 100
    ours_alone = failed["OursTest"] - failed["StockTest"]
    assert {name for name in ours_alone if not name.startswith(KNOWN)} == set()
