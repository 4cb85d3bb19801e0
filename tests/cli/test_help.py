"""The help: every option says what it does, in at most two lines of 100 columns and in the words of the field."""

import re

import pytest
import typer
from typer.testing import CliRunner

from rtdetr.cli.main import COMMANDS, LazyGroup, app

ALL_COMMANDS = [*COMMANDS, "data check", "weights convert"]
FORBIDDEN = re.compile(
    r"pictures?\b|colour|normalis|quantis|optimis|data sets?\b|anew|\bgo(es)? on\b|zoo name|licence|post-process"
    r"|images a (step|second)|of everything|runs before|of these draws",
    re.IGNORECASE,
)


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=98)  # as in a terminal of 100
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", ["", *ALL_COMMANDS])
def test_words(command: str) -> None:
    text = " ".join(help_of(command).split())
    assert FORBIDDEN.findall(text) == []


@pytest.mark.parametrize("command", ["", *ALL_COMMANDS])
def test_layout(command: str) -> None:
    text = help_of(command)
    assert max(map(len, text.splitlines())) <= 100
    assert "..." not in text.partition("Commands:")[2]  # a summary that was cut
    options = text.partition("Options:\n")[2].partition("\n\n")[0]
    for option in re.split(r"^  (?=-)", options, flags=re.MULTILINE)[1:]:
        lines = option.splitlines()
        name_on_its_own_line = "  " not in lines[0]
        assert len(lines) <= 2 + name_on_its_own_line, option


def test_every_option_and_argument_has_a_help() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    context = group.make_context("rtdetr", [], resilient_parsing=True)
    for verb in (group, *(group.get_command(context, name) for name in COMMANDS)):
        for command in (verb, *getattr(verb, "commands", {}).values()):
            assert command.help and command.help.splitlines()[0].endswith("."), command.name
            missing = [one.name for one in command.params if not getattr(one, "help", None)]
            assert not missing, f"{command.name}: {missing}"
