"""docs/cli.md: its examples run, its JSON tables name the keys that are printed, its table has every verb."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtdetr.cli.export import REFUSED
from rtdetr.cli.main import COMMANDS, app
from rtdetr.cli.output import PIPE_CLOSED
from rtdetr.training.signals import exit_status
from tests.cli.test_output import JSON_COMMANDS, make_place, printed_json

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
EXAMPLES = re.findall(r"^\| `([\w ]+)` \| .* \| `rtdetr (.+)` \|$", PAGE, flags=re.MULTILINE)
CHEAP = ("report", "evaluate", "predict", "data check", "models", "weights convert", "env")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_place(tmp_path_factory.mktemp("docs"))
    shutil.copy(folder / "tiny.pth", folder / "run" / "best.pth")
    return folder


def test_every_verb_has_an_example() -> None:
    assert tuple(dict.fromkeys(verb.split()[0] for verb, _ in EXAMPLES)) == COMMANDS


def test_every_exit_status_is_listed() -> None:
    section = PAGE.partition("## Exit status")[2].partition("\n## ")[0]
    stopped = [exit_status(name) for name in ("SIGINT", "SIGTERM")]
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE)] == [
        *(0, 1, 2, REFUSED, stopped[0], PIPE_CLOSED, stopped[1])
    ]


@pytest.mark.parametrize("verb", CHEAP)
def test_fast_examples_run(verb: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    result = CliRunner().invoke(app, dict(EXAMPLES)[verb].split())
    assert result.exit_code in ((0, 1) if verb == "data check" else (0,)), result.output
    assert result.stdout


@pytest.mark.parametrize("verb", JSON_COMMANDS)
def test_keys(verb: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.partition(f"### {verb}\n")[2].partition("\n## ")[0].partition("\n###")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    found = printed_json(JSON_COMMANDS[verb], place, monkeypatch)
    keys = found[0] if isinstance(found, list) else found
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == set(keys)


def test_the_first_pipe_of_the_json_section_names_a_model() -> None:
    assert "json.load(sys.stdin)[0]['name']" in PAGE
    assert json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)[0]["name"]
