"""Opening image files: the only place where the library calls Pillow's `open`.

Whatever a decoder raises becomes an `InputError` that names the file. Formats that Pillow needs a plugin for are
recognized by their first bytes, and the plugin is loaded when the first such file comes.
"""

import contextlib
import ctypes
import functools
import importlib.util
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

import PIL._imaging
from PIL import Image, UnidentifiedImageError

from rtdetr.errors import InputError, nearest
from rtdetr.files import with_home
from rtdetr.images.locks import only_reader
from rtdetr.images.orientation import UPRIGHT, exif_orientation, exif_tag, load_pixels, plain, turn_back

File = str | os.PathLike[str] | bytes | bytearray | BinaryIO
MAX_PIXELS_VARIABLE = "RTDETR_MAX_PIXELS"
FILMS = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv".split())
_SLIDES = frozenset(".bif .czi .mrxs .ndpi .scn .svs .svslide .vms .vmu".split())
_SLIDE_PIXELS = 400_000_000
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:\w+/")  # two letters at least: C:/ is a drive
_SINGLE_PAGE = ("MPO",)  # further pages of these are previews of the first
_MOST_NAMED = 5
_ADVICE = re.compile(r"(generic error\W*)?\b(please|check `stderr`|try (re)?building)\b.*", re.IGNORECASE)
_STARTS = {  # of formats whose files Pillow may fail to recognize where they are damaged
    "PNG": re.compile(rb"\x89PNG"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),  # others begin with RIFF too: WAV, AVI
}
_PILLOW_WARNINGS = (UserWarning, Image.DecompressionBombWarning)
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_log = logging.getLogger(__name__)


def max_pixels() -> int | None:
    """The most pixels that an image may have: RTDETR_MAX_PIXELS, else what Pillow allows; None: any number.

    Raises:
        InputError: the variable is not a number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text:
        return parse_pixels(text)
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def parse_pixels(text: str) -> int:
    """Read a number of pixels: 250000000, 250M (millions) or 1G.

    Raises:
        InputError: anything else.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE | re.ASCII)
    count = round(float(parts[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[parts[2].lower()]) if parts else 0
    if count < 1:
        raise InputError(f"expected a number of pixels such as 250000000 or 250M, got {text!r}")
    return count


def allow_pixels(count: int) -> None:
    """Set the limit of `max_pixels` for this process and for those that it starts from now on."""
    os.environ[MAX_PIXELS_VARIABLE] = str(count)


def decode(source: File | Image.Image, *, reduction: int = 1, upright: bool = True) -> Image.Image:
    """Read the pixels of the first page and turn them upright; the mode is the file's own.

    Args:
        source: a file, or an image of PIL, which is not changed.
        reduction: 2, 4 or 8 lets a JPEG file be decoded with sides smaller by up to this factor.
        upright: apply EXIF rotation; False gives the pixels as the file stores them.

    Returns:
        An image that carries no orientation, so reading it again turns it no further.

    Raises:
        InputError: the file is missing, damaged, too large, or no image.
    """
    with opened(source) as image:
        if reduction > 1 and image is not source:
            image.draft(None, (max(image.width // reduction, 1), max(image.height // reduction, 1)))
        if image is not source:
            _say_pages(image, source)
        stated = exif_tag(image)
        load_pixels(image)
        if 0 in image.size:
            raise InputError(f"expected an image of at least 1x1 pixels, got {image.width}x{image.height}")
        if stated == 1:
            return image
        orientation = exif_orientation(image)
        if upright and orientation != 1:
            return plain(image.transpose(UPRIGHT[orientation]))
        if not upright and orientation == 1:  # a TIFF file, which Pillow has turned
            return plain(image.transpose(turn_back(stated)))
        return plain(image)


@contextlib.contextmanager
def opened(source: File | Image.Image) -> Iterator[Image.Image]:
    """Open an image for the block, without its pixels; what goes wrong in the block is an InputError with its name.

    Only decoding belongs into the block, because every exception there is taken for a decoder's.

    Raises:
        InputError: as for `decode`.
    """
    try:
        if isinstance(source, Image.Image):
            with only_reader(source, getattr(source, "fp", None)):  # two images may be opened from one file object
                yield source
        else:
            with only_reader(source), _open(openable(source)) as image:
                check_pixels(image.size, source)
                yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(_unidentified(source)) from None
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(source, str(error))) from None
    except BaseException as error:  # decoders raise what they like
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of plugins written in Rust
            raise
        raise InputError(f"{name_of(source)} cannot be read as an image: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What a decoder says, without its advice to those who build it."""
    said = _ADVICE.sub("", " ".join(str(error).split())).strip()
    return type(error).__name__ if not str(error).strip() else said if said else "it is damaged or cut off"


class _Plugin(NamedTuple):
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
    _Plugin("AVIF", re.compile(rb"....ftyp(avif|avis|.{8}.{0,12}avif)", re.DOTALL), "'pillow>=11.3'", _load_avif),
    _Plugin("HEIF", re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "pillow-heif", _load_heif),
    _Plugin("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "pillow-jxl-plugin", _load_jxl),
)


def _open(file: Path | BinaryIO) -> Image.Image:
    """Pillow's `open`, with the plugin that the file needs."""
    _silence_libtiff()
    _silence_pillow()
    if os.environ.get(MAX_PIXELS_VARIABLE):
        Image.MAX_IMAGE_PIXELS = max_pixels()  # Pillow warns beyond it and refuses beyond twice as many
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        plugin = _plugin_for(_head(file))
        if plugin is None:
            raise
        try:
            plugin.load()
        except ImportError:
            name = name_of(file)
            raise InputError(
                f"{name} is a {plugin.name} file, which needs a decoder: pip install {plugin.package}, or save the "
                "image as PNG or JPEG"
            ) from None
        return Image.open(file)


def _head(file: Path | BinaryIO) -> bytes:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(32)
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    return head


def _plugin_for(head: bytes) -> _Plugin | None:
    return next((plugin for plugin in _PLUGINS if plugin.start.match(head)), None)


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff from writing to the terminal what Pillow raises as an exception anyway.

    Pillow has no setting for it. The functions are found through Pillow's own module, so that other copies of the
    library in the process go on as before; where libtiff is linked into the module they cannot be found.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(PIL._imaging.__file__)
        for set_handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def _silence_pillow() -> None:
    """Keep Pillow from warning of damaged metadata, which spoils no pixels, and of sizes below the limit.

    Only what its modules warn of themselves: that they were called wrongly is said of the caller. The filters are those
    of the whole process, because any others that a thread sets are lost as soon as another one does.
    """
    for category in _PILLOW_WARNINGS:
        if ("ignore", None, category, re.compile(r"PIL\."), 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=r"PIL\.")


def check_pixels(size_wh: tuple[int, int], source: File) -> None:
    """Refuse an image beyond the limit before its pixels take memory.

    Raises:
        InputError: `size_wh` has more pixels than allowed.
    """
    most, pixels = max_pixels(), size_wh[0] * size_wh[1]
    if most is not None and pixels > most:
        raise InputError(_too_large(source, f"{size_wh[0]}x{size_wh[1]} pixels, more than {most:,}", pixels))


def pixels_hint(pixels: int) -> str:
    """What to do with an image that has more pixels than allowed."""
    tiles = ""
    if pixels >= _SLIDE_PIXELS:
        tiles = "; for objects that are small in it, cut it into tiles (such as with libvips' dzsave) and use those"
    millions = -(-pixels // 1_000_000)
    return f"allow it with --max-pixels {millions}M (Python: rtdetr.images.allow_pixels({millions}_000_000)){tiles}"


def _too_large(source: File | Image.Image, reason: str, pixels: int = 0) -> str:
    if not pixels and (numbers := re.search(r"\((\d+) pixels\)", reason)):  # Pillow's own words
        pixels = int(numbers[1])
        reason = f"{pixels:,} pixels, more than {max_pixels() or 0:,}"
    return f"{name_of(source)} is too large: {reason}; {pixels_hint(pixels)}"


def _unidentified(source: File | Image.Image) -> str:
    name = name_of(source)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in FILMS:
        return refused_film(name)
    if suffix in _SLIDES:
        return f"{name} is a whole-slide image, which is not read: cut it into tiles (such as with libvips' dzsave)"
    head = b"" if isinstance(source, Image.Image) else _head(openable(source))
    kind = _kind_of(head)
    if kind and not tiff_hint(source):
        article = "an" if kind == "AVIF" else "a"
        also = ", or of a kind that is not read" if kind == "TIFF" else ""
        return f"{name} begins like {article} {kind} file and is damaged or cut off{also}: copy or download it again"
    return f"{name} is not an image in a format that Pillow reads{tiff_hint(source)}"


def _kind_of(head: bytes) -> str:
    """The format of the file that begins so; nothing where it is none of the usual ones."""
    plugin = _plugin_for(head)
    if plugin or head.startswith(TIFF_STARTS):
        return plugin.name if plugin else "TIFF"
    return next((kind for kind, start in _STARTS.items() if start.match(head)), "")


def tiff_hint(source: object) -> str:
    """What helps with a TIFF file of which Pillow reads nothing or only some bands; nothing for other files."""
    if not isinstance(source, str | os.PathLike | bytes | bytearray) or importlib.util.find_spec("tifffile"):
        return ""
    start = bytes(source[:4]) if isinstance(source, bytes | bytearray) else _head(Path(source))[:4]
    if start not in TIFF_STARTS:
        return ""
    return "; TIFF files with other bands need the package tifffile: pip install tifffile (or 'rtdetr[formats]')"


def _say_pages(image: Image.Image, source: object) -> None:
    """Say that of several pages or frames the first is used."""
    if getattr(image, "is_animated", False) and image.format not in _SINGLE_PAGE:
        _say_first_page(name_of(source), image.format or "image")


@functools.lru_cache(maxsize=10_000)
def _say_first_page(name: str, kind: str) -> None:
    said = _say_first_page.cache_info().currsize
    if said < _MOST_NAMED:
        _log.warning("%s (%s) has several pages or frames: the first one is used", name, kind)
    elif said == _MOST_NAMED:
        _log.warning("%s too; further files with several pages are not named", name)


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
