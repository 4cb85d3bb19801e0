"""Atomic file writing: readers see the old or the new content, never a part, even if the process is killed."""

import contextlib
import errno
import hashlib
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
    """Expand a leading `~` to the home folder, as a shell does."""
    return Path(os.path.expanduser(path))


def cache_dir() -> Path:
    """Return the cache folder: RTDETR_CACHE, or else the user's cache folder. Its files can be deleted at any time."""
    chosen = os.environ.get("RTDETR_CACHE")
    if chosen:
        return with_home(chosen)
    return with_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rtdetr"


def with_suffix_any_case(path: Path, suffix: str) -> Path:
    """Return the path with another suffix, in upper case if only that file exists."""
    usual, capitals = path.with_suffix(suffix), path.with_suffix(suffix.upper())
    return capitals if capitals.is_file() and not usual.is_file() else usual


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(one for one in (folder, *folder.absolute().parents) if one.exists())).free


def size_text(path: Path) -> str:
    """Return the size of a file for a message, and that of the `.bin` file of an OpenVINO model."""
    files = [path, *([with_suffix_any_case(path, ".bin")] if path.suffix.lower() == ".xml" else [])]
    return " and ".join(f"{file.name}: {bytes_text(file.stat().st_size)}" for file in files if file.is_file())


def write_atomically(
    path: Path, write: Callable[[Path], object], *, error: type[RTDETRError], size: int | None = None
) -> Path:
    """Call `write` with a temporary path next to `path`, then sync the file to disk and move it into place.

    Args:
        path: the file to create or replace; its folder is created.
        write: writes the complete content to the path that it receives.
        error: class of the error to raise on failure.
        size: size of the file in bytes if known, for the message about a full disk.

    Raises:
        RTDETRError: of class `error`: the folder or file cannot be written; an existing file at `path` is unchanged.
    """
    path, temporary = with_home(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a unique name per writer; the file is created again, as mkstemp's mode would hide it from other users
        handle, name = tempfile.mkstemp(prefix=_temporary_prefix(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.unlink()
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RTDETRError:
        raise
    except (OSError, RuntimeError) as failure:  # torch.save's RuntimeError hides the system's message
        cause = failure if temporary is None or isinstance(failure, OSError) else _append_error(temporary) or failure
        if temporary is not None:
            temporary.unlink(missing_ok=True)  # before free space is measured
        raise error(write_error_message(path, cause, size=size)) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str, *, error: type[RTDETRError]) -> Path:
    """Write a text file in UTF-8, as `write_atomically` does."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error=error)


def write_bytes(path: Path, content: bytes, *, error: type[RTDETRError]) -> Path:
    """Write a binary file, as `write_atomically` does."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(content), error=error)


@contextlib.contextmanager
def files_together(target: Path, *, error: type[RTDETRError]) -> Iterator[Path]:
    """Give a temporary path to write a file to, and others next to it; after the block all are moved into place.

    `target` is moved last. If the block fails, all files and newly created folders are removed.

    Args:
        target: final path of the file.
        error: class of the error to raise for system errors.

    Raises:
        RTDETRError: of class `error`: a folder or file cannot be written.
    """
    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_temporary_prefix(target), dir=target.parent) as folder:
            with _report_as(target, Path(folder)):
                yield Path(folder) / target.name
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == target.name)
            if len(files) > 1:
                target.unlink(missing_ok=True)  # never the old one next to new files
            for file in files:
                os.replace(file, target.parent / file.name)
    except OSError as failure:
        raise error(write_error_message(target, failure)) from None
    finally:
        if not target.exists():
            with contextlib.suppress(OSError):  # others may use them by now
                for folder in missing:
                    folder.rmdir()


def _temporary_prefix(path: Path) -> str:
    """Return the prefix of a temporary name: the end of the file's own name, as name lengths are limited."""
    return f".{path.name[-_KEPT_OF_NAME:]}."


@contextlib.contextmanager
def _report_as(target: Path, folder: Path) -> Iterator[None]:
    """Replace the path in a temporary folder by `target` in error messages."""
    try:
        yield
    except RTDETRError as failure:
        failure.args = (str(failure).replace(str(folder / target.name), str(target)), *failure.args[1:])
        raise


def write_error_message(path: Path, failure: Exception, *, size: int | None = None) -> str:
    """Return the message for a file that cannot be written: the system's reason, the free space, and what to do.

    Args:
        path: the file.
        failure: the exception; a library's own error may hide that the disk is full.
        size: size of the file in bytes, if known.
    """
    reason = getattr(failure, "strerror", None) or str(failure).strip().partition("\n")[0]
    number = getattr(failure, "errno", None)
    if number in (errno.EEXIST, errno.ENOTDIR):
        reason = next((f"{one} is a file, not a folder" for one in path.parents if one.is_file()), reason)
    if number is not None and number not in DISK_FULL:
        return f"cannot write {path}: {reason}. Choose another location"
    if number in DISK_FULL:
        reason = "the disk is full"
    with contextlib.suppress(OSError):
        needed = "" if size is None else f", the file needs {bytes_text(size)}"
        reason += f" ({bytes_text(free_space(path.parent))} free there{needed})"
    return f"cannot write {path}: {reason}. Free some space, or choose another location"


def _append_error(file: Path) -> OSError | None:
    """Append to a file and return the system's error, or None if it can be written."""
    try:
        with file.open("ab") as stream:
            stream.write(bytes(2**20))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as failure:
        return failure
    return None
