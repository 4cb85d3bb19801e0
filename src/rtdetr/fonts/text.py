"""Split a text into parts with one font each, and replace names that no font can draw.

Pillow shapes text, including right-to-left scripts, if it is built with Raqm and finds FriBiDi. It does not search for
characters in a second font, so that is done here.
"""

import logging
import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from PIL import ImageDraw, features

from rtdetr.fonts.search import OWN, Face, find_face, given_face, has_all, open_face
from rtdetr.wording import listed, plural

_log = logging.getLogger(__name__)
LEFT_TO_RIGHT = "\u200e"  # ends a right-to-left name, so that the following text stays on its right
_KEPT_CONTROLS = "\u200c\u200d" + LEFT_TO_RIGHT  # the first two control which letters are joined
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "KANGXI", "FULLWIDTH", "HALFWIDTH")
_EUROPEAN = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN")
FontPath = str | os.PathLike[str] | None


class Part(NamedTuple):
    """Characters to draw with one font."""

    text: str
    face: Face


class TextLine:
    """One line of text at one size, to measure and draw."""

    def __init__(self, parts: Iterable[Part], size: int) -> None:
        """Open the fonts of the parts, which are ordered from left to right, at a size in pixels."""
        self._drawn = [(part.text, open_face(part.face, size)) for part in parts]
        metrics = [font.getmetrics() for _, font in self._drawn] or [open_face(OWN, size).getmetrics()]
        self.ascent, self.descent = max(above for above, _ in metrics), max(below for _, below in metrics)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return math.ceil(sum(font.getlength(text) for text, font in self._drawn))

    def draw(self, pen: ImageDraw.ImageDraw, left: float, baseline: float, *, color: tuple[int, int, int]) -> None:
        """Draw the line, starting at `left` on the `baseline`."""
        for text, font in self._drawn:
            pen.text((left, baseline), text, fill=color, font=font, anchor="ls")
            left += font.getlength(text)


def lay_out(text: str, *, font: FontPath = None) -> tuple[Part, ...]:
    """Split a text into parts for `TextLine`, from left to right; characters that no font has are omitted.

    Args:
        text: one line; results of `shown_names` are drawn completely.
        font: font file to use for all characters that it has.

    Raises:
        InputError: the font cannot be read.
    """
    face = None if font is None else given_face(font)
    found: list[Part] = []
    for section in clean(text).split(LEFT_TO_RIGHT):
        parts = [part for part in _parts(section, face) if isinstance(part, Part)] if section else []
        found += parts[::-1] if reads_from_right(section) else parts
    return tuple(found)


def cut(text: str, length: int) -> str:
    """Return the first `length` characters and "...", or fewer to avoid splitting combined characters."""
    while 0 < length < len(text) and unicodedata.category(text[length])[0] in "MC":
        length -= 1
    return text if length >= len(text) else text[:length] + "..."


def shown_names(names: Sequence[str], *, font: FontPath = None) -> tuple[str, ...]:
    """Return class names that can be drawn in images; a name without a font becomes "class 7".

    One warning lists the replaced names and the packages to install.

    Args:
        names: class names by label.
        font: font file to use for all characters that it has.

    Raises:
        InputError: the font cannot be read.
    """
    return _shown(tuple(names), None if font is None else given_face(font))


@lru_cache(maxsize=256)
def _shown(names: tuple[str, ...], face: Face | None) -> tuple[str, ...]:
    def missing_characters(text: str) -> str:
        return "".join(part for part in _parts(text, face) if isinstance(part, str))

    unshaped = "" if features.check("raqm") else "Pillow shapes such text only with FriBiDi (apt install libfribidi0)"
    return replace_names(names, missing_characters=missing_characters, unshaped=unshaped)


def replace_names(
    names: Sequence[str], *, missing_characters: Callable[[str], str], unshaped: str, stand_in: str = "class"
) -> tuple[str, ...]:
    """Replace names that cannot be drawn by numbers, with a warning.

    Args:
        names: the names, by number.
        missing_characters: returns the characters of a name for which there is no font.
        unshaped: why text cannot be shaped, for scripts that need it; empty if it can.
        stand_in: word before the number of a replaced name.
    """
    shown, without_font, unshapable, missing = [], [], [], ""
    for number, name in enumerate(names):
        text = clean(name)
        lacks = missing_characters(text)
        if lacks:
            without_font.append(text)
            missing += lacks
        elif unshaped and _needs_shaping(text):
            unshapable.append(text)
        else:
            shown.append(f"{LEFT_TO_RIGHT}{text}{LEFT_TO_RIGHT}" if reads_from_right(text) else text)
            continue
        shown.append(f"{stand_in} {number}")
    if without_font:
        packages = " ".join(sorted({_package(character) for character in missing}))
        _warn_once(
            f"no installed font has all characters of {_some(without_font, stand_in)}: numbers are drawn instead. "
            f"Install one (Debian, Ubuntu: apt install {packages}), or pass a font file with --font (Python: font)"
        )
    if unshapable:
        _warn_once(
            f"text shaping is not available for {_some(unshapable, stand_in)}: numbers are drawn instead. {unshaped}"
        )
    return tuple(shown)


def clean(text: str) -> str:
    """Return a text on one line in normal form C, without control characters and variation selectors."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(
        character
        for character in text
        if character in _KEPT_CONTROLS
        or not (unicodedata.category(character) in ("Cc", "Cf", "Cs") or "\ufe00" <= character <= "\ufe0f")
    )


@lru_cache(maxsize=4096)
def _parts(text: str, font: Face | None) -> tuple[Part | str, ...]:
    """Split a text into as few parts with one font each as possible; text that no font has stays a plain string."""
    whole = find_face(frozenset(text), font)
    if whole is not None:
        return (Part(text, whole),)
    parts: list[Part | str] = []
    for stretch in _stretches(text):
        together = find_face(frozenset(stretch), font) is not None
        for piece in [stretch] if together else stretch:
            _append(parts, piece, font)
    return tuple(parts)


def _append(parts: list[Part | str], text: str, font: Face | None) -> None:
    """Add a text to the last part if its font has all characters, otherwise as a new part."""
    last = parts[-1] if parts else None
    if isinstance(last, Part) and has_all(last.face, text):
        parts[-1] = Part(last.text + text, last.face)
    else:
        face = find_face(frozenset(text), font)
        parts.append(text if face is None else Part(text, face))


def _stretches(text: str) -> list[str]:
    """Split a text where the script changes; spaces and marks stay with the text before them."""
    found: list[str] = []
    former = None
    for character in text:
        kind = unicodedata.category(character)[0]
        script = former if kind in "MZC" and found else _script(character)
        if script == former and found:
            found[-1] += character
        else:
            found.append(character)
        former = script
    return found


def _script(character: str) -> str:
    """Return the script of a letter, the first word of its Unicode name; empty for digits and symbols."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    return unicodedata.name(character, "").partition(" ")[0].partition("-")[0]


def reads_from_right(text: str) -> bool:
    """Whether the first letter with a direction belongs to a right-to-left script."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((one != "L" for one in directions if one in ("L", "R", "AL")), False)


def _needs_shaping(text: str) -> bool:
    """Whether the text needs shaping or reordering: Arabic, Hebrew, Hindi, Thai and others."""
    return any(unicodedata.bidirectional(c) in ("R", "AL") or unicodedata.category(c)[0] == "M" for c in text)


def _package(character: str) -> str:
    """Return the Debian package with a font for a character."""
    name = unicodedata.name(character, "")
    if name.startswith(_EAST_ASIAN):
        return "fonts-noto-cjk"
    if name.startswith(_EUROPEAN):
        return "fonts-dejavu-core"
    return "fonts-noto-core" if unicodedata.category(character)[0] in "LMN" else "fonts-symbola"


def _some(names: Sequence[str], what: str) -> str:
    return f"{listed(names, 3, shown=repr)} ({what} {plural('name', len(names))})"


@cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)
