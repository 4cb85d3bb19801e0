"""Sources of images: paths, bytes and file objects, their formats by the first bytes, and why one cannot be read."""

import importlib.util
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

from PIL import Image

from rtdetr.errors import InputError, nearest
from rtdetr.files import with_home

File = str | os.PathLike[str] | bytes | bytearray | BinaryIO
VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv".split())
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:\w+/")  # at least two letters: C:/ is a drive
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SLIDES = frozenset(".bif .czi .mrxs .ndpi .scn .svs .svslide .vms .vmu".split())
_STARTS = {  # formats that Pillow may not recognize if the file is damaged
    "PNG": re.compile(rb"\x89PNG"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),  # WAV and AVI begin with RIFF, too
}


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


class Plugin(NamedTuple):
    """A format that Pillow reads with a plugin; `load` registers it."""

    name: str
    start: re.Pattern[bytes]
    package: str
    load: Callable[[], object]


def _load_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _load_jxl() -> None:
    import pillow_jxl  # noqa: F401  # registers itself


def _load_avif() -> None:
    if ".avif" not in Image.registered_extensions():
        raise ImportError("this release of Pillow does not read AVIF")


_PLUGINS = (
    Plugin("AVIF", re.compile(rb"....ftyp(avif|avis|.{8}.{0,12}avif)", re.DOTALL), "'pillow>=11.3'", _load_avif),
    Plugin("HEIF", re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "pillow-heif", _load_heif),
    Plugin("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "pillow-jxl-plugin", _load_jxl),
)


def plugin_for(head: bytes) -> Plugin | None:
    """Return the plugin for a file that begins with `head`; None if Pillow needs none."""
    return next((plugin for plugin in _PLUGINS if plugin.start.match(head)), None)


def unidentified(source: File | Image.Image) -> str:
    """Return the error message for a file that Pillow cannot read."""
    name = name_of(source)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return video_message(name)
    if suffix in _SLIDES:
        return f"{name} is a whole-slide image, which is not supported: cut it into tiles (e.g. with libvips' dzsave)"
    head = b"" if isinstance(source, Image.Image) else head_of(openable(source))
    kind = _kind_of(head)
    if kind and not tiff_hint(source):
        article = "an" if kind == "AVIF" else "a"
        also = ", or of an unsupported type" if kind == "TIFF" else ""
        return f"{name} begins like {article} {kind} file but is damaged or truncated{also}: copy or download it again"
    return f"{name} is not an image in a format that Pillow can read{tiff_hint(source)}"


def _kind_of(head: bytes) -> str:
    """Return the format of a file that begins with `head`; empty if unknown."""
    plugin = plugin_for(head)
    if plugin or head.startswith(TIFF_STARTS):
        return plugin.name if plugin else "TIFF"
    return next((kind for kind, start in _STARTS.items() if start.match(head)), "")


def tiff_hint(source: object) -> str:
    """Return advice for a TIFF file that Pillow cannot read completely; empty for other files."""
    if not isinstance(source, str | os.PathLike | bytes | bytearray) or importlib.util.find_spec("tifffile"):
        return ""
    start = bytes(source[:4]) if isinstance(source, bytes | bytearray) else head_of(Path(source))[:4]
    if start not in TIFF_STARTS:
        return ""
    return "; TIFF files with other bands need the package tifffile: pip install tifffile"
