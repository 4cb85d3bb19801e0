"""Recognize formats by the first bytes of a file; Pillow plugins for some formats, error messages for the others."""

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rtdetr.images.sources import VIDEO_SUFFIXES, File, head_of, name_of, openable, video_message

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SLIDES = frozenset(".bif .czi .mrxs .ndpi .scn .svs .svslide .vms .vmu".split())
_STARTS = {  # formats that Pillow may not recognize if the file is damaged
    "PNG": re.compile(rb"\x89PNG"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),  # WAV and AVI begin with RIFF, too
}


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
    return "; TIFF files with other bands need the package tifffile: pip install tifffile (or 'rtdetr[formats]')"
