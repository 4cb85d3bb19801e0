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


def check_targets(*targets: str | Path | None) -> None:
    """Refuse files that cannot be written before the work begins. None and "-", standard output, are left out.

    Raises:
        InputError: a target is a folder, or its folder is a file or not writable.
    """
    from rtdetr.files import with_home

    for target in targets:
        if target is None or target == "-":
            continue
        path = with_home(target)
        folder = next(one for one in path.absolute().parents if one.exists())
        if path.is_dir():
            raise InputError(f"cannot write {target}: it is a folder. Give the name of a file in it")
        if not folder.is_dir():
            raise InputError(f"cannot write {target}: {folder} is a file, not a folder. Choose another location")
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {target}: no permission to write in {folder}. Choose another location")


def write_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically: next to its target first, then renamed.

    Raises:
        InputError: the file cannot be written.
    """
    from rtdetr.files import write_atomically

    write_atomically(target, write, error=InputError)
