"""Find a font on this machine that has given characters: Pillow's own, common ones, fontconfig's, all font folders.

A font has a character if it draws something other than its glyph for unknown characters. This test only needs Pillow
and works for every type of font that Pillow opens.
"""

import contextlib
import importlib.util
import itertools
import os
import subprocess
import sys
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageFont

from rtdetr.errors import InputError

_PROBE_SIZE = 24  # pixels; glyphs are compared at this size
_NO_CHARACTER = "\U0010ffff"  # Unicode guarantees that it is never assigned
_USUAL = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_PLACEHOLDERS = ("lastresort", "adobeblank")  # have every character and draw a box or nothing
_UNUSUAL_STYLES = (  # in file names; such fonts are used only if there is no plain one
    *("bold", "black", "heavy", "italic", "oblique", "light", "thin", "condensed", "mono", "serif"),
    *("display", "looped", "ui", "medium"),
)
_MAX_CANDIDATES = 8
_TIMEOUT = 10.0  # seconds for fontconfig, which may need to build its cache


class Face(NamedTuple):
    """A font: a file and the index in it, for collections; an empty path is Pillow's own font."""

    path: str = ""
    index: int = 0


OWN = Face()


@lru_cache(maxsize=256)
def open_face(face: Face, size: int) -> ImageFont.FreeTypeFont:
    """Open a font at a size in pixels, in its regular weight if it has several.

    Raises:
        OSError: the font cannot be read.
    """
    if face == OWN:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    font = ImageFont.truetype(face.path, size, index=face.index)
    with contextlib.suppress(OSError, NotImplementedError, ValueError):  # most fonts have only one weight
        font.set_variation_by_name("Regular")
    return font


def given_face(path: str | os.PathLike[str]) -> Face:
    """Return the font of a file given by the user.

    Raises:
        InputError: the file does not exist or is not a font.
    """
    try:
        return Face(str(open_face(Face(os.fspath(path)), _PROBE_SIZE).path))  # the system's folders are searched too
    except OSError as error:
        raise InputError(f"cannot read the font {os.fspath(path)}: {error}; pass a .ttf or .otf file") from None


def find_face(characters: frozenset[str], font: Face | None = None) -> Face | None:
    """Find a font that has all of the characters, preferably `font`; None if there is none."""
    first = [OWN] if font is None else [font, OWN]
    found = next((face for face in first if has_all(face, characters)), None)
    if found is not None:
        return found
    foreign = frozenset(character for character in characters if not has(OWN, character))
    return next((face for face in _candidates(foreign) if has_all(face, characters)), None)


def has_all(face: Face, characters: frozenset[str] | str) -> bool:
    """Whether a font has all of the characters."""
    return all(has(face, character) for character in characters)


@lru_cache(maxsize=65536)
def has(face: Face, character: str) -> bool:
    """Whether a font has a character; True for characters that draw nothing, such as a space."""
    if unicodedata.category(character) in ("Zs", "Cf"):
        return True
    try:
        return _drawn(face, character) != _unknown(face)
    except OSError:  # a bitmap font without this size
        return False


def _drawn(face: Face, character: str) -> tuple[Any, ...]:
    font = _probe(face)
    mask: Any = font.getmask(character, mode="L")
    return font.getlength(character), font.getbbox(character), bytes(mask)


@cache
def _unknown(face: Face) -> tuple[Any, ...]:
    """Return what a font draws for a character that it does not have."""
    return _drawn(face, _NO_CHARACTER)


@cache
def _probe(face: Face) -> ImageFont.FreeTypeFont:
    if face == OWN:
        return open_face(OWN, _PROBE_SIZE)
    return ImageFont.truetype(face.path, _PROBE_SIZE, index=face.index, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
def _candidates(characters: frozenset[str]) -> tuple[Face, ...]:
    """Find fonts on this machine that have all of the characters, most suitable first."""
    for faces in (_usual_faces, _faces_of_fontconfig, _installed_faces):
        found = (face for face in faces() if has_all(face, characters))
        first = tuple(itertools.islice(found, _MAX_CANDIDATES))
        if first:
            return first
    return ()


@cache
def _usual_faces() -> list[Face]:
    faces = []
    for name in _USUAL:
        with contextlib.suppress(OSError):
            faces.append(Face(str(ImageFont.truetype(name, _PROBE_SIZE).path)))
    return faces


@cache
def _faces_of_fontconfig() -> list[Face]:
    """Every font in the order in which fontconfig searches for a character; empty if it is not installed."""
    command = ["fc-match", "--all", "--format", r"%{file}\t%{index}\n", "sans-serif"]
    faces = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
        for line in ran.stdout.splitlines():
            path, _, index = line.partition("\t")
            if _is_font(path):
                # the upper 16 bits are the weight of a variable font
                faces.append(Face(path, int(index) & 0xFFFF if index.isdecimal() else 0))
    return faces


@cache
def _installed_faces() -> list[Face]:
    """Every font in the font folders, plain ones first."""
    files = {file for folder in _folders() for file in folder.rglob("*") if _is_font(file.name)}
    faces = []
    for file in sorted(files, key=lambda file: (_style_rank(file.name), file.name)):
        with contextlib.suppress(OSError):
            _probe(Face(str(file)))
            faces.append(Face(str(file)))
    return faces


def _is_font(name: str) -> bool:
    lowered = name.lower()
    return lowered.endswith(_SUFFIXES) and not any(word in lowered for word in _PLACEHOLDERS)


def _style_rank(name: str) -> int:
    lowered = name.lower().replace("sansserif", "")
    return sum(word in lowered for word in _UNUSUAL_STYLES)


def _folders() -> list[Path]:
    """Font folders of the system, and matplotlib's."""
    home = Path("~").expanduser()
    if sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
        folders.append(Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        roots = [os.environ.get("XDG_DATA_HOME") or home / ".local/share", *shared.split(":")]
        folders = [*(Path(root) / "fonts" for root in roots if root), home / ".fonts"]
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        folders.append(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf")
    return [folder for folder in folders if folder.is_dir()]
