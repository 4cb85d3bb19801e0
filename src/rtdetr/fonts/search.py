"""Which font file on this machine has given characters: Pillow's own, usual ones, fontconfig's answer, all folders.

A font has a character if it draws something other than the sign that it draws for unknown ones. That needs nothing but
Pillow, and holds for every kind of font that Pillow opens.
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

_PROBE_SIZE = 24  # pixels, at which glyphs are compared
_NO_CHARACTER = "\U0010ffff"  # Unicode guarantees that it never becomes one
_USUAL = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_PLACEHOLDERS = ("lastresort", "adobeblank")  # they claim every character and draw a box or nothing
_LESS_LIKE_OTHERS = (  # in the name of a file: not what a label is written in, as long as there is something else
    *("bold", "black", "heavy", "italic", "oblique", "light", "thin", "condensed", "mono", "serif"),
    *("display", "looped", "ui", "medium"),
)
_MOST_CANDIDATES = 8
_SECONDS = 10.0  # for fontconfig, which may have to build its cache


class Face(NamedTuple):
    """A font: a file and the position in it, which counts in collections; an empty path stands for Pillow's own."""

    path: str = ""
    index: int = 0


OWN = Face()


@lru_cache(maxsize=256)
def open_face(face: Face, size: int) -> ImageFont.FreeTypeFont:
    """Open a font at a size in pixels, in its regular weight where it has several.

    Raises:
        OSError: it cannot be read.
    """
    if face == OWN:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    font = ImageFont.truetype(face.path, size, index=face.index)
    with contextlib.suppress(OSError, NotImplementedError, ValueError):  # most fonts have one weight only
        font.set_variation_by_name("Regular")
    return font


def given_face(path: str | os.PathLike[str]) -> Face:
    """The font of a file that a user names.

    Raises:
        InputError: it is no font, or not there.
    """
    try:
        return Face(str(open_face(Face(os.fspath(path)), _PROBE_SIZE).path))  # the system's folders are searched too
    except OSError as error:
        raise InputError(f"cannot read the font {os.fspath(path)}: {error}; give a .ttf or .otf file") from None


def find_face(characters: frozenset[str], font: Face | None = None) -> Face | None:
    """A font that has all of the characters, `font` first; None if there is no such font."""
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
    """Whether a font has a character; one that draws nothing, such as a space, counts as there."""
    if unicodedata.category(character) in ("Zs", "Cf"):
        return True
    try:
        return _drawn(face, character) != _unknown(face)
    except OSError:  # a bitmap font, which has no such size
        return False


def _drawn(face: Face, character: str) -> tuple[Any, ...]:
    font = _probe(face)
    mask: Any = font.getmask(character, mode="L")
    return font.getlength(character), font.getbbox(character), bytes(mask)


@cache
def _unknown(face: Face) -> tuple[Any, ...]:
    """What a font draws for a character that it lacks."""
    return _drawn(face, _NO_CHARACTER)


@cache
def _probe(face: Face) -> ImageFont.FreeTypeFont:
    if face == OWN:
        return open_face(OWN, _PROBE_SIZE)
    return ImageFont.truetype(face.path, _PROBE_SIZE, index=face.index, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
def _candidates(characters: frozenset[str]) -> tuple[Face, ...]:
    """Some fonts of this machine that have all of the characters, the most suitable ones first."""
    for faces in (_usual_faces, _faces_of_fontconfig, _installed_faces):
        found = (face for face in faces() if has_all(face, characters))
        first = tuple(itertools.islice(found, _MOST_CANDIDATES))
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
    """Every font in the order in which fontconfig would look for a character; none where it is not installed."""
    command = ["fc-match", "--all", "--format", r"%{file}\t%{index}\n", "sans-serif"]
    faces = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        for line in ran.stdout.splitlines():
            path, _, index = line.partition("\t")
            if _is_font(path):
                # in the upper half is which of its weights a variable font shows
                faces.append(Face(path, int(index) & 0xFFFF if index.isdecimal() else 0))
    return faces


@cache
def _installed_faces() -> list[Face]:
    """Every font in the folders where fonts are, plain ones first."""
    files = {file for folder in _folders() for file in folder.rglob("*") if _is_font(file.name)}
    faces = []
    for file in sorted(files, key=lambda file: (_oddity(file.name), file.name)):
        with contextlib.suppress(OSError):
            _probe(Face(str(file)))
            faces.append(Face(str(file)))
    return faces


def _is_font(name: str) -> bool:
    lowered = name.lower()
    return lowered.endswith(_SUFFIXES) and not any(word in lowered for word in _PLACEHOLDERS)


def _oddity(name: str) -> int:
    lowered = name.lower().replace("sansserif", "")
    return sum(word in lowered for word in _LESS_LIKE_OTHERS)


def _folders() -> list[Path]:
    """Where the system keeps fonts, and the ones that matplotlib brings."""
    home = Path("~").expanduser()
    if sys.platform == "win32":
        places = [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
        places.append(Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        places = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        roots = [os.environ.get("XDG_DATA_HOME") or home / ".local/share", *shared.split(":")]
        places = [*(Path(root) / "fonts" for root in roots if root), home / ".fonts"]
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        places.append(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf")
    return [place for place in places if place.is_dir()]
