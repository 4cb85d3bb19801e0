"""The `rtdetr` command: finds the verb, turns errors into one line, and loads nothing that the verb does not need.

A verb is a file `rtdetr/cli/VERB.py` with one attribute called VERB: a function whose parameters are the options, or a
`typer.Typer` for a group of sub-commands. Its docstring is the help, the first line the summary in `rtdetr --help`.
Verb files import typer, `rtdetr.errors` and the standard library at the top and everything else inside the function,
because `rtdetr --help` imports all of them. They raise errors of `rtdetr.errors`, print results with `echo` and
`write_json` of `cli/output.py`, and log. Options that several verbs have are in `cli/arguments.py`, words that the Tab
key completes in `cli/completion.py`. What a help text says: the effect of the option, its unit and its default.

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
from rtdetr.errors import ConfigError, RTDETRError, is_news, nearest, one_line, require_extra

VERBS = (
    "train",
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


UsageError: Any = typer.BadParameter.__base__  # of typer's own copy of click, or of click with older releases
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes of an argument that are no text in Python's encoding of names
_HOME = re.compile(r"^((?:[\w.-]+=)?)~(?=/|$)")  # of a path, of --option=PATH and of NAME=PATH behind --set


@contextlib.contextmanager
def _usage_on_one_line() -> Iterator[None]:
    """Print what is wrong with options and arguments as all other errors, without the usage."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        command = "rtdetr" if error.ctx is None else " ".join(["rtdetr", *error.ctx.command_path.split()[1:]])
        message = " ".join(error.format_message().split())
        typer.echo(f"ConfigError: {message}{'' if message[-1:] in '.?' else '.'} See {command} --help", err=True)
        raise typer.Exit(2) from None


class LazyGroup(TyperGroup):
    """Imports a verb's module when the verb is asked for; reports `RTDETRError` on one line with exit status 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Build the command of a verb."""
        if cmd_name not in VERBS:
            if ctx is not None and ctx.resilient_parsing:  # the Tab key behind a mistake
                return None
            raise ConfigError(
                f"unknown command {cmd_name!r}.{nearest(cmd_name, VERBS)} Run 'rtdetr --help' for the list."
            )
        verb = getattr(importlib.import_module(f"rtdetr.cli.{cmd_name}"), cmd_name)
        if not isinstance(verb, typer.Typer):
            function, verb = verb, typer.Typer(add_completion=False, rich_markup_mode=None)
            verb.command(cmd_name)(function)
        command = typer.main.get_command(verb)
        if ctx is not None and ctx.resilient_parsing:
            complete_words(command)
        return command

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        """Read the options that stand before the verb; `~` is the home folder where the shell has left it in."""
        args = [_HOME.sub(lambda start: start[1] + os.path.expanduser("~"), argument) for argument in args]
        with _usage_on_one_line():
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            with require_extra(), _usage_on_one_line():
                result = super().invoke(ctx)
        except RTDETRError as error:
            if ctx.params["debug"]:
                raise
            if is_news(line := one_line(error)):
                typer.echo(line, err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        if pipe_was_closed():
            raise typer.Exit(PIPE_CLOSED)
        return result


# plain help: rich would double the time that `rtdetr --help` takes
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
    # Pillow's own words for images of half the limit, which is said once it is reached
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    log_to_stderr(logging.DEBUG if debug else logging.INFO)


def main() -> None:
    """Run the command line of this process and exit."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and (name := next((one for one in sys.argv if _UNDECODED.search(one)), None)):
        shown = os.fsencode(name).decode(errors="replace")
        _end(f"ConfigError: Python is set to names in {encoding}, got {shown!r}. Set PYTHONUTF8=1 and try again")
    try:
        typer.main.get_command(app)(prog_name="rtdetr")
    except OSError as error:
        from rtdetr.files import DISK_FULL

        if error.filename is not None or error.errno not in DISK_FULL:  # what is written to files names them
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left when it ends
        _end("InputError: cannot write the output: the disk is full. Free some space, or write it elsewhere")


def _end(message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(2)
