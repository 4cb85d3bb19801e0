"""Write a file so that a reader, or a killed process, meets the old content or the new one, never half of it."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rtdetr.errors import RTDETRError


def write_atomically(path: Path, write: Callable[[Path], object], *, error: type[RTDETRError]) -> Path:
    """Call `write` with a temporary path beside `path`, then move the result into place once it is on the disk.

    Args:
        path: the file to create or replace; its folder is created.
        write: writes the whole content to the path it is given.
        error: the class of errors to raise if that fails.

    Raises:
        RTDETRError: of class `error`: the folder or file cannot be written; what stood at `path` before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own for each writer; mkstemp's mode would keep the file from other users, so umask decides
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.unlink()
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RTDETRError:
        raise
    except (OSError, RuntimeError) as failure:  # torch.save reports a full disk as RuntimeError
        reason = getattr(failure, "strerror", None) or str(failure).partition("\n")[0]
        raise error(f"cannot write {path}: {reason}. Choose another place.") from None
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
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            yield Path(folder) / target.name
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == target.name)
            if len(files) > 1:
                target.unlink(missing_ok=True)  # never the old one beside others that are new
            for file in files:
                os.replace(file, target.parent / file.name)
    except OSError as failure:
        raise error(f"cannot write {target}: {failure.strerror or failure}. Choose another place.") from None
    finally:
        if not target.exists():
            with contextlib.suppress(OSError):  # others may have used them meanwhile
                for folder in missing:
                    folder.rmdir()
