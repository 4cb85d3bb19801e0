"""The wheel and the source distribution, built, installed and used outside the repository."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rtdetr
from tests.coco_files import many_images, write_dataset

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[1]
TRAIN = "--model test-tiny --size 64 --epochs 1 --batch-size 4 --device cpu --precision float32 --workers 0".split()


def run(*command: object, cwd: Path) -> str:
    """What a command prints, away from the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, made from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=REPOSITORY)
    (source,) = folder.glob("*.tar.gz")
    build = "pip wheel --quiet --no-deps --no-build-isolation --wheel-dir".split()
    run(sys.executable, "-m", *build, folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment_with(folder: Path, *arguments: object) -> Path:
    """The `bin` of a new environment in which pip was called with these arguments."""
    venv.create(folder, with_pip=True)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", *arguments, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_the_package_and_its_license_alone(built):
    names = zipfile.ZipFile(built).namelist()
    files = {path.relative_to(REPOSITORY / "src").as_posix() for path in (REPOSITORY / "src").rglob("*.py")}
    assert files | {"rtdetr/py.typed"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"rtdetr", f"rtdetr-{rtdetr.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_exported_files_run_without_torch(built, tmp_path):
    try:
        bin = environment_with(tmp_path / "env", f"{built}[onnx]")
    except AssertionError as error:
        if "Could not find a version" in str(error) or "ConnectionError" in str(error):
            pytest.skip("no package index within reach")
        raise
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    export = "rtdetr export test-tiny:untrained --format onnx --output model.onnx".split()
    run(Path(sys.executable).with_name(export[0]), *export[1:], cwd=tmp_path)
    assert run(bin / "rtdetr", "--version", cwd=tmp_path).strip().endswith(rtdetr.__version__)
    assert "predict" in run(bin / "rtdetr", "--help", cwd=tmp_path)
    command = "predict a.png --model model.onnx --threshold 0 --json out.json".split()
    run(bin / "rtdetr", *command, cwd=tmp_path)
    written = json.loads((tmp_path / "out.json").read_text())
    expected = rtdetr.load(tmp_path / "model.onnx")(tmp_path / "a.png", threshold=0.0)
    (found,) = written["images"] if isinstance(written, dict) else written
    scores = [one["score"] for one in found["detections"]]
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    code = "import importlib.util, rtdetr; print(importlib.util.find_spec('torch'), rtdetr.__file__)"
    spec, _, file = run(bin / "python", "-c", code, cwd=tmp_path).strip().partition(" ")
    assert spec == "None" and Path(file).is_relative_to(tmp_path)


def test_training_with_the_installed_wheel(built, tmp_path):
    bin = environment_with(tmp_path / "env", "--no-deps", built)
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    # torch and the others of this environment; .pth files there, which lead to the repository, are not followed
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    _, file = write_dataset(tmp_path / "data", many_images(8))
    run(bin / "rtdetr", "train", file, "--val-data", file, *TRAIN, "--output", "run", cwd=tmp_path)
    assert (tmp_path / "run/best.pth").is_file() and (tmp_path / "run/report.html").is_file()
    where = run(bin / "python", "-c", "import rtdetr; print(rtdetr.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
