"""The section "Add an export format" of docs/extending.md: its code is added to a copy of the library and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
USE = """
import sys
import numpy as np
from typer.testing import CliRunner
from rtdetr.cli.main import app

def run(*more):
    done = CliRunner().invoke(app, [*sys.argv[1:], *more])
    print(done.exit_code, " ".join(done.output.split()))

run()
run("--opset", "18")
run("--precision", "fp16")
save = np.savez
np.savez = lambda stream, **arrays: save(stream, **{k: v * 2 if k.endswith("weight") else v for k, v in arrays.items()})
run("--output", "wrong.npz")
"""


def section() -> list[tuple[str, str]]:
    """Language and text of each code block."""
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    part = text.partition("\n## Add an export format\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)


def insert(file: Path, block: str, *, before: str = "", after: str = "") -> None:
    text = file.read_text(encoding="utf-8")
    place = before or after
    assert text.count(place) == 1
    file.write_text(text.replace(place, block + place if before else place + block), encoding="utf-8")


@pytest.mark.slow
def test_the_page_adds_a_format(tmp_path: Path) -> None:
    (_, endings), (_, module), (_, entry), (_, row), (_, command) = section()
    package = tmp_path / "src" / "rtdetr"
    shutil.copytree(REPOSITORY / "src" / "rtdetr", package, ignore=shutil.ignore_patterns("__pycache__"))
    insert(package / "exported_files.py", endings, after="ENDINGS = {\n")
    (package / "export" / "npz.py").write_text(module, encoding="utf-8")
    insert(package / "export" / "formats.py", entry, after="FORMATS = {\n")
    assert row.count("|") == 6
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", USE, *command.split()[1:]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    good, option, precision, wrong = done.stdout.splitlines()
    assert good.startswith("0 ") and "passed" in good and "test-tiny.npz: " in good
    assert option.startswith("2 ") and "opset (--opset) needs format onnx, got format npz: leave it out" in option
    assert precision.startswith("2 ") and "expected fp32 for format npz, got 'fp16'" in precision
    assert wrong.startswith("3 ") and "wrong.npz was not written" in wrong
    assert sorted(file.name for file in tmp_path.iterdir()) == ["src", "test-tiny.npz"]
    assert "backbone.conv1.conv1_1.conv.weight" in np.load(tmp_path / "test-tiny.npz")
