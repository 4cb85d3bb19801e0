"""Download published weight files to a cache: resumable, atomic, verified. Does not import torch.

Next to each cached file `NAME`, `NAME.sha256` holds its hash since the first use. `NAME.partial` is an unfinished
download, and `NAME.partial.tag` identifies the version of the remote file.

Environment: RTDETR_CACHE (cache folder), RTDETR_OFFLINE=1 or HF_HUB_OFFLINE=1 (never connect), RTDETR_WEIGHTS_URL (a
mirror: files are downloaded from there by file name).
"""

import http.client
import logging
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from rtdetr._version import __version__
from rtdetr.errors import WeightsError
from rtdetr.files import cache_dir, sha256_of, write_text
from rtdetr.wording import counted

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_DELAYS = (1.0, 2.0, 4.0)  # seconds before each further attempt
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
TRANSIENT_STATUS = {408, 416, 425, 429, 500, 502, 503, 504}


def download(url: str, *, sha256: str | None = None) -> Path:
    """Return the cached file of a URL; download it if it is not in the cache.

    Args:
        url: URL of the file; its last path component is the name in the cache.
        sha256: expected hash in hexadecimal; None: the hash recorded at the first use.

    Raises:
        WeightsError: offline, unreachable, or the content is not the expected one; the message says how to get the
            file.
    """
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    mirror = os.environ.get("RTDETR_WEIGHTS_URL")
    source = f"{mirror.rstrip('/')}/{name}" if mirror else url
    path = cache_dir() / name
    if not path.is_file():
        by_hand = f"Download {source} by other means and save it as {path}."
        if _is_offline():
            raise WeightsError(f"{name} is not in the cache and RTDETR_OFFLINE or HF_HUB_OFFLINE is set. {by_hand}")
        with _lock(path):
            if not path.is_file():  # another process may have downloaded it in the meantime
                partial = _fetch(source, path, by_hand)
                _check_hash(partial, sha256, f"the download of {source}", "It was deleted; try again.", delete=True)
                os.replace(partial, path)
    _verify(path, sha256)
    return path


def _is_offline() -> bool:
    values = (os.environ.get(name, "") for name in ("RTDETR_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() not in ("", "0", "false", "no", "off") for value in values)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time download a file; others wait and find it in the cache."""
    lock = FileLock(_sibling(path, ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise WeightsError(f"cannot write to the cache {path.parent}: {error}. Set RTDETR_CACHE to a folder.") from None
    try:
        yield
    finally:
        lock.release()


def _verify(path: Path, sha256: str | None) -> None:
    """Compare the hash of a cached file with the published one, or with the one recorded at its first use."""
    sidecar = _sibling(path, ".sha256")
    if sha256 is None and sidecar.is_file():
        recorded = sidecar.read_text(encoding="utf-8", errors="replace").split()
        advice = f"Delete it and {sidecar.name}, then try again."
        _check_hash(path, recorded[0] if recorded else "", f"{path}, which changed since its first use,", advice)
        return
    actual = _check_hash(path, sha256, str(path), "Delete the file and try again.")
    if not sidecar.is_file():
        try:
            write_text(sidecar, f"{actual}  {path.name}\n", error=WeightsError)
        except WeightsError:
            log.info("cannot record the hash of %s: the cache is read-only", path)


def _check_hash(path: Path, sha256: str | None, what: str, advice: str, *, delete: bool = False) -> str:
    """Check the hash of a file; None accepts any hash."""
    actual = _store(lambda: sha256_of(path))
    if sha256 is not None and actual != sha256.lower():
        if delete:
            path.unlink()
        raise WeightsError(f"{what} should have SHA-256 {sha256 or '(empty)'}, got {actual}. {advice}")
    return actual


def _fetch(url: str, path: Path, by_hand: str) -> Path:
    """Download to `path.partial`, resuming an earlier attempt."""
    partial = _sibling(path, ".partial")
    for delay in (*RETRY_DELAYS, None):
        try:
            _receive(url, partial)
            _sibling(partial, ".tag").unlink(missing_ok=True)
            return partial
        except (OSError, http.client.HTTPException, ValueError) as error:
            if delay is None or not _is_transient(error):
                reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
                raise WeightsError(f"cannot download {path.name}: {reason}. {by_hand}") from None
            log.info("%s: %s; next attempt in %g s", url, error, delay)
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in TRANSIENT_STATUS
    # failed name resolution means no network, so waiting would only delay the message
    return not isinstance(error, ValueError) and not isinstance(getattr(error, "reason", None), socket.gaierror)


def _receive(url: str, partial: Path) -> None:
    """Make one attempt: append the missing bytes, then check the size that the server announced."""
    tag_file = _sibling(partial, ".tag")
    tag = tag_file.read_text(encoding="utf-8") if tag_file.is_file() else ""
    start = partial.stat().st_size if tag and partial.is_file() else 0
    headers = {"User-Agent": f"rtdetr/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is longer than the remote one
            partial.unlink(missing_ok=True)
        error.close()
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError("the server sent a web page instead of the file")
        etag = response.headers.get("ETag", "")
        new_tag = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")  # weak tags cannot resume
        if response.status != 206:
            start = 0
        elif new_tag != tag or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            partial.unlink(missing_ok=True)
            raise ConnectionError("the file changed on the server between two attempts")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if start == 0:  # before writing the new tag, so that a kill in between cannot pair it with old bytes
            partial.unlink(missing_ok=True)
        _store(lambda: tag_file.write_text(new_tag, encoding="utf-8"))
        with (
            _progress(partial.stem, start, total) as advance,
            _store(lambda: partial.open("ab" if start else "wb")) as file,
        ):
            while chunk := response.read(CHUNK):
                _store(lambda data=chunk: file.write(data))
                advance(len(chunk))
    size = partial.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection ended after {size} of {counted(total, 'byte')}")


def _store(action: Callable[[], T]) -> T:
    """Run a disk operation, so that a full disk is not mistaken for a network failure."""
    try:
        return action()
    except OSError as error:
        message = f"cannot use the cache {cache_dir()}: {error.strerror or error}."
        raise WeightsError(f"{message} Free some space, or set RTDETR_CACHE to another folder.") from None


@contextmanager
def _progress(name: str, done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
