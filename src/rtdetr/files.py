"""Write a file so that a reader, or a killed process, meets the old content or the new one, never half of it."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rtdetr.errors import RTDETRError
from rtdetr.wording import bytes_text

DISK_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)

_KEPT_OF_NAME = 50  # characters, of up to 4 bytes each; file systems take 255 bytes


def with_home(path: str | os.PathLike[str]) -> Path:
    """A path as a shell would pass it: with the home folder in place of a `~` at its start."""
    return Path(os.path.expanduser(path))


def cache_dir() -> Path:
    """Folder of files that may be deleted at any time: RTDETR_CACHE, else the user's cache folder."""
    chosen = os.environ.get("RTDETR_CACHE")
    if chosen:
        return with_home(chosen)
    return with_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rtdetr"


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with another suffix, which may be written in capitals."""
    usual, capitals = path.with_suffix(suffix), path.with_suffix(suffix.upper())
    return capitals if capitals.is_file() and not usual.is_file() else usual


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(next(one for one in (folder, *folder.absolute().parents) if one.exists())).free


def write_atomically(
    path: Path, write: Callable[[Path], object], *, error: type[RTDETRError], size: int | None = None
) -> Path:
    """Call `write` with a temporary path beside `path`, then move the result into place once it is on the disk.

    Args:
        path: the file to create or replace; its folder is created.
        write: writes the whole content to the path it is given.
        error: the class of errors to raise if that fails.
        size: bytes that the file will have, to be told if they are too many.

    Raises:
        RTDETRError: of class `error`: the folder or file cannot be written; what stood at `path` before is untouched.
    """
    path, temporary = with_home(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own for each writer; mkstemp's mode would keep the file from other users, so umask decides
        handle, name = tempfile.mkstemp(prefix=_hidden(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.unlink()
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RTDETRError:
        raise
    except (OSError, RuntimeError) as failure:  # torch.save raises the latter, which hides what the system said
        told = failure if temporary is None or isinstance(failure, OSError) else _asked_again(temporary) or failure
        if temporary is not None:
            temporary.unlink(missing_ok=True)  # before what is free is looked up
        raise error(refusal(path, told, size=size)) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def files_together(target: Path, *, error: type[RTDETRError]) -> Iterator[Path]:
    """Give a path to write a file at, and others beside it; when the block is through, all appear, `target` last.

    If the block fails, nothing is left, missing folders of `target` that were created for it included.

    Args:
        target: where the file will be.
        error: the class of errors to raise for what the system refuses.

    Raises:
        RTDETRError: of class `error`: a folder or file cannot be written.
    """
    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_hidden(target), dir=target.parent) as folder:
            with _named_as(target, Path(folder)):
                yield Path(folder) / target.name
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == target.name)
            if len(files) > 1:
                target.unlink(missing_ok=True)  # never the old one beside others that are new
            for file in files:
                os.replace(file, target.parent / file.name)
    except OSError as failure:
        raise error(refusal(target, failure)) from None
    finally:
        if not target.exists():
            with contextlib.suppress(OSError):  # others may have used them meanwhile
                for folder in missing:
                    folder.rmdir()


def _hidden(path: Path) -> str:
    """How the name of what is written in place of a file begins: with the end of its own, as names are limited."""
    return f".{path.name[-_KEPT_OF_NAME:]}."


@contextlib.contextmanager
def _named_as(target: Path, folder: Path) -> Iterator[None]:
    """Name `target` in errors about the file of its name in a temporary folder."""
    try:
        yield
    except RTDETRError as failure:
        failure.args = (str(failure).replace(str(folder / target.name), str(target)), *failure.args[1:])
        raise


def refusal(path: Path, failure: Exception, *, size: int | None = None) -> str:
    """Words for a file that could not be written: the system's reason, what is free, and what to do.

    Args:
        path: the file.
        failure: what was raised; a library's own error may hide that the disk is full.
        size: bytes that the file needs, where known.
    """
    reason = getattr(failure, "strerror", None) or str(failure).strip().partition("\n")[0]
    number = getattr(failure, "errno", None)
    if number is not None and number not in DISK_FULL:
        return f"cannot write {path}: {reason}. Choose another place"
    if number in DISK_FULL:
        reason = "the disk is full"
    with contextlib.suppress(OSError):
        needed = "" if size is None else f", the file needs {bytes_text(size)}"
        reason += f" ({bytes_text(free_space(path.parent))} free there{needed})"
    return f"cannot write {path}: {reason}. Free some space, or choose another place"


def _asked_again(file: Path) -> OSError | None:
    """What the system says when more is written to a file; None where it takes it."""
    try:
        with file.open("ab") as stream:
            stream.write(bytes(2**20))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as failure:
        return failure
    return None
