"""Sources of images (paths, bytes, file objects), and error messages for videos, cameras and URLs."""

import io
import os
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from rtdetr.errors import InputError, nearest
from rtdetr.files import with_home

File = str | os.PathLike[str] | bytes | bytearray | BinaryIO
VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv".split())
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:\w+/")  # at least two letters: C:/ is a drive


def openable(source: File) -> Path | BinaryIO:
    """Return a source that Pillow can open: an existing path or a binary file object.

    Raises:
        InputError: the file does not exist, or the source has another type.
    """
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return existing(source)
    if not hasattr(source, "read"):
        raise InputError(f"expected a path, bytes, PIL image or numpy array, got {type(source).__name__}")
    return source


def is_url(source: object) -> bool:
    """Whether a text is a URL such as https://host/image.jpg; also for a Path, which drops one of the slashes."""
    return isinstance(source, str | os.PathLike) and _URL.match(os.fspath(source)) is not None


def video_message(name: str) -> str:
    """Return the error message for a video."""
    return f"{name} is a video, and only images are supported: extract its frames first (ffmpeg -i VIDEO %06d.png)"


def stream_message(source: str | os.PathLike[str]) -> str | None:
    """Return the error message for standard input, a pipe or a camera; None for anything else."""
    name = os.fspath(source)
    if os.path.isfile(name) or os.path.isdir(name):
        return None
    if name.isdecimal() or name.startswith("/dev/video"):
        kind, remedy = "camera", "save its frames first (ffmpeg -i /dev/video0 %06d.png)"
    elif name == "-" or name.startswith("/dev/") or os.path.exists(name):
        kind, remedy = "stream", "save the image to a file first"
    else:
        return None
    return f"no image file {name}; a {kind} is not supported: {remedy} and pass the file, its folder or a glob"


def full_url(url: str | os.PathLike[str]) -> str:
    """Return a URL with both slashes, of which a Path drops one."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/+", r"\1://", os.fspath(url))


def url_message(url: str | os.PathLike[str]) -> str:
    """Return the error message for a URL, by its scheme."""
    whole = full_url(url)
    scheme = whole.partition(":")[0].lower()
    if scheme == "data":
        return f"URLs are not supported: decode the text after the comma of {whole[:40]}... and pass the bytes"
    if scheme == "file":
        return f"URLs are not supported: pass only the path, /{unquote(whole.partition('://')[2])}"
    if scheme.startswith(("rtsp", "rtmp", "rtp", "udp", "srt")):
        return (
            f"{whole} is a camera or video, and only images are supported: save its frames first (ffmpeg -i URL "
            "%06d.png)"
        )
    return f"URLs are not supported: download {whole} and pass the file"


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that exists and is not empty.

    Raises:
        InputError: there is no such file, or it is empty; the message says what is there instead.
    """
    file = with_home(path)
    if file.is_file():
        if file.stat().st_size == 0:
            raise InputError(f"{file} is empty (0 bytes): copy or download it again")
        return file
    if file.is_dir():
        raise InputError(f"expected an image file, got the folder {file}; list its images and pass them")
    if is_url(path):
        raise InputError(url_message(path))
    if stream := stream_message(path):
        raise InputError(stream)
    if file.is_symlink():
        raise InputError(f"{file} is a link to {os.readlink(file)}, which does not exist")
    if not file.parent.is_dir():
        raise InputError(f"no image {file}: the folder {file.parent} does not exist")
    names = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
    raise InputError(f"no image {file}.{nearest(file.name, names)}")


def name_of(source: object) -> str:
    """Return a name of a source for messages."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if isinstance(name, str) and name else "the given image"


def head_of(file: Path | BinaryIO) -> bytes:
    """Return the first 32 bytes."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(32)
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    return head
