"""The command lines of docs/migrate.md have options that there are."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from rtdetr.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "migrate.md"
COMMANDS = sorted(set(re.findall(r"`(rtdetr \w+[^`]*)`", PAGE.read_text())))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_and_option_exists(line):
    _, verb, *rest = shlex.split(line)
    command = typer.main.get_command(app).get_command(None, verb)
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in rest if word.startswith("-") and word not in known] == []


@pytest.mark.parametrize(
    "script", sorted(set(re.findall(r"tools/(?:deploy/)?(?:rtdetrv2_|train|export)\w*\.py", PAGE.read_text())))
)
def test_every_script_exists(script):
    assert (PAGE.parents[1] / script).is_file()
