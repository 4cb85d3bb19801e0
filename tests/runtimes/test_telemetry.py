"""Engines leave no identifier in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_openvino_detector import convert

SCRIPT = """
import sys
import rtdetr
for file in sys.argv[1:]:
    rtdetr.load(file)
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="engines keep such files elsewhere on Windows, where docs/limits.md was not tried"
)
def test_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    metadata = make_metadata()
    onnx_file = save_graph(tmp_path / "graph.onnx", metadata)
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, str(onnx_file), str(convert(onnx_file, metadata))]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert not [path for path in home.rglob("*") if path.is_file()]
