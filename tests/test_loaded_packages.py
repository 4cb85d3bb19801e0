"""Each journey loads only the packages it uses: torchvision alone takes as long to import as torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr.export import export
from rtdetr.models import build_model
from rtdetr.weights import save_weights
from tests.training.small import write_folder

ALWAYS = {
    "PIL",
    "annotated_types",
    "numpy",
    "pydantic",
    "pydantic_core",
    "typing_extensions",
    "typing_inspection",
    "yaml",
}
COMMAND_LINE = {"typer", "click", "rich", "shellingham", "pygments", "markdown_it", "mdurl", "annotated_doc"}
TORCH = {"jaxtyping", "wadler_lindig", "safetensors", "filelock"}  # used with torch
EVALUATION = {"hotcoco", "rich", "pygments", "markdown_it", "mdurl"}
PARTS_OF_TORCH = ("torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard")
REPORT = """
import sys, sysconfig
def report():
    packages = sysconfig.get_paths()["purelib"]
    found = {name.partition(".")[0] for name, module in sys.modules.items()
             if str(getattr(module, "__file__", None) or "").startswith(packages) and not name.startswith("_")}
    print("loaded:", *sorted(found), *(name for name in sys.modules if name in PARTS))
"""
OF_OLDER_VERSIONS = {"attr", "cffi"}  # loaded by older versions of the packages below
OF_THE_ENVIRONMENT = {"coverage", "rtdetr", "sitecustomize", "distutils-precedence", "_distutils_hack"}


def loaded_by(code: str, *arguments: object) -> set[str]:
    """Packages that a program loads."""
    command = [sys.executable, "-c", f"PARTS = {PARTS_OF_TORCH}\n{REPORT}\n{code}\nreport()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    return set(line.split()[1:]) - OF_THE_ENVIRONMENT - OF_OLDER_VERSIONS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An image, a checkpoint, its exports and a dataset."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(folder / "a.jpg")
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=3)
    save_weights(model, folder / "model.pth")
    for name in ("model.onnx", "model.xml"):
        export(model, folder / name)
    write_folder(folder / "data")
    return folder


DETECT = "import rtdetr; rtdetr.load(sys.argv[1])(sys.argv[2])"
PREDICT = """
from rtdetr.cli.main import app
app(["predict", sys.argv[2], "--model", sys.argv[1], "--output", sys.argv[3]], standalone_mode=False)
"""


@pytest.mark.parametrize(
    ("name", "engine", "used"),
    [("model.pth", "torch", TORCH), ("model.onnx", "onnxruntime", set()), ("model.xml", "openvino", set())],
)
def test_detection(files, tmp_path, name, engine, used):
    allowed = ALWAYS | used | loaded_by(f"import {engine}")
    assert loaded_by(DETECT, files / name, files / "a.jpg") <= allowed
    assert loaded_by(PREDICT, files / name, files / "a.jpg", tmp_path) <= allowed | COMMAND_LINE


@pytest.mark.slow
def test_evaluation(files):
    code = "import rtdetr; rtdetr.evaluate(sys.argv[1], sys.argv[2])"
    allowed = ALWAYS | TORCH | EVALUATION | loaded_by("import torch")
    assert loaded_by(code, files / "model.pth", files / "data") <= allowed


def test_the_command_line():
    assert loaded_by("from rtdetr.cli.main import app") <= COMMAND_LINE
    assert loaded_by("import rtdetr") == set()
