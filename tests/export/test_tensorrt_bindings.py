"""What this library calls of TensorRT and CUDA is there, in their published Python interfaces, oldest and newest.

`make test-slow` fetches them; they import without a GPU, TensorRT's with empty libraries in place of its own.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BINDINGS = Path(sys.prefix) / "bindings"  # see Makefile
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins", "getInferLibVersion"),
)


@pytest.mark.slow
@pytest.mark.parametrize("major", [10, 11])
def test_tensorrt(major, tmp_path) -> None:
    bindings = BINDINGS / f"tensorrt-{major}"
    if not bindings.is_dir() or shutil.which("gcc") is None:
        pytest.skip("needs gcc and the bindings that 'make test-slow' fetches")
    source = tmp_path / "empty.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", soname, source], cwd=tmp_path, check=True
        )
    command = [sys.executable, Path(__file__).with_name("tensorrt_bindings.py"), bindings]
    done = subprocess.run(
        [*command, REPOSITORY / "typings/tensorrt/__init__.pyi"],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"missing": [], "dims": [1, 3, 64]}


@pytest.mark.slow
def test_cuda() -> None:
    bindings = BINDINGS / "cuda"
    if not bindings.is_dir():
        pytest.skip("needs the bindings that 'make test-slow' fetches")
    stub = ast.parse((REPOSITORY / "typings/cuda/bindings/runtime.pyi").read_text())
    wanted = {one.name: [a.arg for a in one.args.args] for one in stub.body if isinstance(one, ast.FunctionDef)}
    show = "import json, sys\nfrom cuda.bindings import runtime\n"
    show += "print(json.dumps({name: getattr(runtime, name).__doc__ for name in sys.argv[1:]}))"
    command = [sys.executable, "-c", show, *wanted]
    environment = {**os.environ, "PYTHONPATH": str(bindings)}
    texts = json.loads(subprocess.check_output(command, env=environment, text=True))
    assert len(wanted) > 10
    for name, names in wanted.items():
        form = re.match(rf"{name}\((.*?)\)", texts[name])
        assert form, texts[name]
        found = [part.partition(":")[0].split()[-1] for part in form[1].split(",") if part]
        assert found == names, name
