"""Class names in matplotlib figures: font families to draw them with, and numbers for names that cannot be drawn.

matplotlib searches for a character in one family after the other, so a list of families supports names in several
scripts. Since 3.11 it shapes text, including right-to-left scripts.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from rtdetr.fonts.search import OWN, Face, find_face, given_face
from rtdetr.fonts.text import LEFT_TO_RIGHT, FontPath, cut, replace_names

_MAX_LENGTH = 24


class FigureNames(NamedTuple):
    """Names that matplotlib can draw, with at most 24 characters each, and the font families to draw them with."""

    names: tuple[str, ...]
    families: list[str]


def figure_names(names: Sequence[str], *, font: FontPath = None, stand_in: str = "class") -> FigureNames:
    """Prepare names for a figure; a name that no font can draw becomes "class 7", with one warning.

    Args:
        names: class names by label, or other names.
        font: font file to use for all characters that it has.
        stand_in: word before the number of a replaced name.

    Raises:
        InputError: the font cannot be read.
    """
    shown, families = _prepared(tuple(names), None if font is None else given_face(font), stand_in)
    return FigureNames(tuple(map(_shortened, shown)), list(families))


@lru_cache(maxsize=256)
def _prepared(names: tuple[str, ...], font: Face | None, stand_in: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    import matplotlib
    from matplotlib import ft2font
    from matplotlib.font_manager import FontProperties, findfont

    files = [str(findfont(FontProperties()))]
    families = list(matplotlib.rcParams["font.family"])
    if font is not None:
        files.insert(0, font.path)
        families.insert(0, _family(font.path))

    def missing_characters(text: str) -> str:
        text = text.replace(LEFT_TO_RIGHT, "")
        missing = [character for character in text if not any(_has(file, character) for file in files)]
        for character in missing:
            # first a font with all missing characters, so that those of one script come from one font
            face = find_face(frozenset(missing)) or find_face(frozenset(character))
            if face is not None and face != OWN and face.path not in files and _has(face.path, character):
                files.append(face.path)
                families.append(_family(face.path))
        return "".join(character for character in missing if not any(_has(file, character) for file in files))

    unshaped = ""
    if not hasattr(ft2font, "__libraqm_version__"):
        unshaped = f"matplotlib {matplotlib.__version__} does not support it, 3.11 does: pip install -U matplotlib"
    shown = replace_names(names, missing_characters=missing_characters, unshaped=unshaped, stand_in=stand_in)
    return shown, tuple(families)


@cache
def _characters(file: str) -> frozenset[int]:
    """Characters of a font file for matplotlib, which uses only the first font of a collection."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _has(file: str, character: str) -> bool:
    return ord(character) in _characters(file)


def _family(file: str) -> str:
    """Register a font file with matplotlib; return the name of its family."""
    from matplotlib.font_manager import fontManager, get_font

    if not any(entry.fname and Path(entry.fname) == Path(file) for entry in fontManager.ttflist):
        fontManager.addfont(file)
    return get_font(file).family_name


def _shortened(name: str) -> str:
    """Shorten a name and escape it for matplotlib: dollar signs begin formulas, underscores hide legend entries."""
    from_right, name = name.startswith(LEFT_TO_RIGHT), name.strip(LEFT_TO_RIGHT)
    name = (name if len(name) <= _MAX_LENGTH else cut(name, _MAX_LENGTH - 3)).replace("$", r"\$")
    if from_right:
        return f"{LEFT_TO_RIGHT}{name}{LEFT_TO_RIGHT}"
    return f" {name}" if name.startswith("_") else name
