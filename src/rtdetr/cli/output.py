"""Output of the commands: text and JSON on standard output, and files."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from rtdetr.errors import InputError

PIPE_CLOSED = 141  # exit status of shells for a program that writes to a closed pipe
_closed = False


def echo(text: object, *, err: bool = False) -> None:
    """Print a line. If the reader has closed the pipe, as with `| head`, the command continues to write its files.

    Args:
        text: what to print.
        err: whether to print to standard error.
    """
    global _closed
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        _closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())


def pipe_was_closed() -> bool:
    """Whether the reader closed the pipe before everything was printed."""
    return _closed


def write_json(document: object, target: str) -> None:
    """Write a document as JSON to a file, or to standard output if the target is "-"; non-finite numbers become null.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        text = json.dumps(document, indent=1, allow_nan=False)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(document), parse_constant=lambda _: None), indent=1)
    if target == "-":
        echo(text)
    else:
        write_file(Path(target), lambda file: file.write_text(text + "\n", encoding="utf-8"))


def write_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically: next to its target first, then renamed.

    Raises:
        InputError: the file cannot be written.
    """
    from rtdetr.files import write_atomically

    write_atomically(target, write, error=InputError)
