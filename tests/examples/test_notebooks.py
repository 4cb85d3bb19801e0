"""The notebooks are those that their Python files make, and run on a few images and a tiny network."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.small_demo import make_small_demo
from tools.build_notebooks import FOLDER, read_source

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(FOLDER.glob("*.py"))
sources = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@sources
def test_notebooks_are_built_and_small(source):
    path = source.with_suffix(".ipynb")
    written, expected = nbformat.read(path, as_version=4), read_source(source)
    assert [(cell.cell_type, cell.source) for cell in written.cells] == [
        (cell.cell_type, cell.source) for cell in expected.cells
    ], "run tools/build_notebooks.py"
    nbformat.validate(written)
    text = path.read_text()
    assert len(text) < 150_000 and str(REPOSITORY.parent) not in text and "Traceback" not in text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the notebooks in a copy of the repository that holds a small demo."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "examples/notebooks").mkdir(parents=True)
    (folder / "examples/demo").symlink_to(REPOSITORY / "examples/demo")
    make_small_demo(folder / "demo")
    return folder / "examples/notebooks"


@pytest.mark.slow
@sources
def test_notebooks_run(source, place):
    # in a process of its own: the client's event loop and sockets would warn in this one
    code = "import sys; from pathlib import Path; from tools.build_notebooks import read_source, run; "
    code += "run(read_source(Path(sys.argv[1])), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(source), str(place)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
