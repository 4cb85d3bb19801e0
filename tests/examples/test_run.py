"""The demo deletes results of an earlier demo, and nothing else."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "demo" / "run.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("run")


@pytest.mark.parametrize("name", ["run", "images"])
def test_a_folder_of_the_user_is_never_deleted(script, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["run.py", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"{name} exists and is not from an earlier demo: remove it, or choose"):
        script.main()
    assert (tmp_path / name / "precious.txt").read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_an_earlier_demo_is_replaced(script, tmp_path, monkeypatch):
    for name in ("data", "run", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / script.PARAMETERS_FILE).write_text("{}")
    commands = []

    def stop(*arguments):
        commands.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "make_dataset", lambda folder: folder)
    monkeypatch.setattr(script, "command", stop)
    monkeypatch.setattr("sys.argv", ["run.py", "--folder", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert commands[0][0] == "train"
    assert not (tmp_path / "run").exists()
