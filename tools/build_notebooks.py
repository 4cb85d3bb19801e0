"""Make examples/notebooks/*.ipynb from the Python files beside them, and run them.

    make demo
    python tools/build_notebooks.py [NAME...]

A line `# %%` begins a cell of code, `# %% [markdown]` one of text, whose lines are comments.
"""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def read_source(path: Path) -> Any:
    """Return the notebook of a Python file, without outputs."""
    cells: list[Any] = []
    parts = re.split(r"^# %%(.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        name = f"cell-{len(cells)}"
        if "[markdown]" in kind:
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.strip().splitlines()]
            cells.append(new_markdown_cell("\n".join(lines), id=name))
        else:
            cells.append(new_code_cell(text.strip(), id=name))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def run(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a folder and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=900, resources=resources, record_timing=False, coalesce_streams=True)
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # the kernel added the version of this Python
    for cell in notebook.cells:  # log lines tell about this run, not about the library
        outputs = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        if cell.cell_type == "code":
            cell.outputs = outputs
    return notebook


def main() -> None:
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.py"))]
    for name in names:
        notebook = run(read_source(FOLDER / f"{name}.py"), FOLDER)
        path = FOLDER / f"{name}.ipynb"
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
