"""What may stand for an image (a path, bytes, a file object), and what to do with films, cameras and addresses."""

import io
import os
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from rtdetr.errors import InputError, nearest
from rtdetr.files import with_home

File = str | os.PathLike[str] | bytes | bytearray | BinaryIO
FILMS = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv".split())
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:\w+/")  # two letters at least: C:/ is a drive


def openable(source: File) -> Path | BinaryIO:
    """What Pillow can open: an existing path or a binary file object.

    Raises:
        InputError: there is no such file, or the source is of another type.
    """
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return existing(source)
    if not hasattr(source, "read"):
        raise InputError(f"expected a path, bytes, PIL image or numpy array, got {type(source).__name__}")
    return source


def is_address(source: object) -> bool:
    """Whether a text is an address such as https://host/image.jpg, also as a Path, which drops one of the slashes."""
    return isinstance(source, str | os.PathLike) and _ADDRESS.match(os.fspath(source)) is not None


def refused_film(name: str) -> str:
    """What to do with a film."""
    return f"{name} is a film, and only images are read: take its frames out first (ffmpeg -i FILM %06d.png)"


def refused_stream(source: str | os.PathLike[str]) -> str | None:
    """What to do with standard input, a pipe or a camera, none of which is a file; None for all else."""
    name = os.fspath(source)
    if os.path.isfile(name) or os.path.isdir(name):
        return None
    if name.isdecimal() or name.startswith("/dev/video"):
        kind, remedy = "camera", "save frames of it first (ffmpeg -i /dev/video0 %06d.png)"
    elif name == "-" or name.startswith("/dev/") or os.path.exists(name):
        kind, remedy = "stream", "save the image to a file first"
    else:
        return None
    return f"no image file {name}; as a {kind} it is not read: {remedy} and give the file, its folder or a glob"


def written(address: str | os.PathLike[str]) -> str:
    """An address with both slashes, of which a Path drops one."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/+", r"\1://", os.fspath(address))


def refused_address(address: str | os.PathLike[str]) -> str:
    """What to do with an address, by its kind."""
    whole = written(address)
    scheme = whole.partition(":")[0].lower()
    if scheme == "data":
        return f"addresses are not opened: decode the text behind the comma of {whole[:40]}... and pass the bytes"
    if scheme == "file":
        return f"addresses are not opened: pass the path alone, /{unquote(whole.partition('://')[2])}"
    if scheme.startswith(("rtsp", "rtmp", "rtp", "udp", "srt")):
        return (
            f"{whole} is a camera or film, and only images are read: save its frames first (ffmpeg -i ADDRESS %06d.png)"
        )
    return f"addresses are not opened: download {whole} and pass the file"


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that exists and is not empty.

    Raises:
        InputError: says what is there instead.
    """
    file = with_home(path)
    if file.is_file():
        if file.stat().st_size == 0:
            raise InputError(f"{file} is empty (0 bytes): copy or download it again")
        return file
    if file.is_dir():
        raise InputError(f"expected an image file, got the folder {file}; list its images and pass them one by one")
    if is_address(path):
        raise InputError(refused_address(path))
    if stream := refused_stream(path):
        raise InputError(stream)
    if file.is_symlink():
        raise InputError(f"{file} is a link to {os.readlink(file)}, which does not exist")
    if not file.parent.is_dir():
        raise InputError(f"no image {file}: the folder {file.parent} does not exist")
    names = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
    raise InputError(f"no image {file}.{nearest(file.name, names)}")


def name_of(source: object) -> str:
    """What to call a source in a message."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if isinstance(name, str) and name else "the given image"


def head_of(file: Path | BinaryIO) -> bytes:
    """The first 32 bytes."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(32)
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    return head
