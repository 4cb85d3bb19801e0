"""The `rtdetr` program: dispatches to commands, reports errors on one line, and imports only what a command needs.

A command is a module `rtdetr/cli/COMMAND.py` with an attribute of the same name: a function whose parameters are the
options, or a `typer.Typer` for a group of subcommands. Its docstring is the help; the first line is the summary in
`rtdetr --help`. Modules of commands import typer, `rtdetr.errors` and the standard library at the top, and everything
else inside the function, because `rtdetr --help` imports all of them. They raise errors of `rtdetr.errors`, print
results with `echo` and `write_json` of `cli/output.py`, and log. Options of several commands are in `cli/arguments.py`,
words for shell completion in `cli/completion.py`. A help text says what the option does, its unit and its default.

    def predict(
        source: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
        model: Annotated[str, typer.Option(help="Model name or weight file.")],
        device: Device = "auto",
        threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Lowest score shown.")] = 0.5,
    ) -> None:
        \"\"\"Detect objects in images.\"\"\"
        from rtdetr.runtimes import load
"""

import contextlib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from rtdetr.cli.completion import complete_words
from rtdetr.cli.logs import log_to_stderr
from rtdetr.cli.output import PIPE_CLOSED, pipe_was_closed
from rtdetr.errors import ConfigError, RTDETRError, is_first_report, nearest, one_line, require_extra

COMMANDS = (
    "train",
    "compare",
    "report",
    "evaluate",
    "predict",
    "export",
    "quantize",
    "benchmark",
    "data",
    "models",
    "weights",
    "env",
)


UsageError: Any = typer.BadParameter.__base__  # from typer's copy of click, or from click with older releases
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes of an argument that cannot be decoded
_HOME = re.compile(r"^((?:[\w.-]+=)?)~(?=/|$)")  # in a path, in --option=PATH, and in NAME=PATH after --set


@contextlib.contextmanager
def _usage_on_one_line() -> Iterator[None]:
    """Print errors in options and arguments like all other errors, without the usage."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        command = "rtdetr" if error.ctx is None else " ".join(["rtdetr", *error.ctx.command_path.split()[1:]])
        message = " ".join(_plain(error).split())
        typer.echo(f"ConfigError: {message}{'' if message[-1:] in '.?' else '.'} See {command} --help", err=True)
        raise typer.Exit(2) from None


def _plain(error: Any) -> str:
    """Return the message of a usage error; where typer repeats pydantic's words, with the value and ours."""
    text, cause = error.format_message(), error.__cause__
    if not hasattr(cause, "errors") or not text.endswith(error.message):
        return text
    from rtdetr.expected import expected_by

    problem = cause.errors()[0]
    return f"{text.removesuffix(error.message)}expected {expected_by(problem)}, got {problem['input']!r}"


class LazyGroup(TyperGroup):
    """Imports the module of a command when it is used; reports `RTDETRError` on one line with exit status 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build a command."""
        if cmd_name not in COMMANDS:
            if ctx is not None and ctx.resilient_parsing:  # shell completion after a mistyped command
                return None
            raise ConfigError(
                f"unknown command {cmd_name!r}.{nearest(cmd_name, COMMANDS)} Run 'rtdetr --help' for the list."
            )
        part = getattr(importlib.import_module(f"rtdetr.cli.{cmd_name}"), cmd_name)
        if not isinstance(part, typer.Typer):
            function, part = part, typer.Typer(add_completion=False, rich_markup_mode=None)
            part.command(cmd_name)(function)
        command = typer.main.get_command(part)
        if ctx is not None and ctx.resilient_parsing:
            complete_words(command)
        return command

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        """Parse the options before the command; `~` is expanded if the shell did not expand it."""
        args = [_HOME.sub(lambda start: start[1] + os.path.expanduser("~"), argument) for argument in args]
        with _usage_on_one_line():
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with require_extra(), _usage_on_one_line():
                result = super().invoke(ctx)
        except RTDETRError as error:
            if ctx.params["debug"]:
                raise
            if is_first_report(line := one_line(error)):
                typer.echo(line, err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        if pipe_was_closed():
            raise typer.Exit(PIPE_CLOSED)
        return result


# plain help: rich would double the time of `rtdetr --help`
app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        from rtdetr._version import __version__

        typer.echo(f"rtdetr {__version__}")
        raise typer.Exit


@app.callback(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, evaluate, export and run RT-DETR and RT-DETRv2 detectors."""
    # Pillow warns at half of its limit; we report an error at the limit
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    log_to_stderr(logging.DEBUG if debug else logging.INFO)


def main() -> None:
    """Run the command line of this process and exit."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and (name := next((one for one in sys.argv if _UNDECODED.search(one)), None)):
        shown = os.fsencode(name).decode(errors="replace")
        _end(f"ConfigError: {shown!r} cannot be decoded, because Python uses the encoding {encoding}. Set PYTHONUTF8=1")
    try:
        typer.main.get_command(app)(prog_name="rtdetr")
    except OSError as error:
        from rtdetr.files import DISK_FULL

        if error.filename is not None or error.errno not in DISK_FULL:  # errors of files name the file
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes the rest at exit
        _end("InputError: cannot write the output: the disk is full. Free some space, or write to another disk")


def _end(message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(2)
