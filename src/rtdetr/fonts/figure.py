"""Class names in matplotlib's figures: the families to write them with, and numbers for those that cannot be written.

matplotlib looks for a letter in one family after the other, so a list of families serves for names in several scripts.
From 3.11 on it joins letters and orders them from right to left.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from rtdetr.fonts.search import OWN, Face, find_face, given_face
from rtdetr.fonts.text import LEFT_TO_RIGHT, FontPath, cut, replace_names

_LONGEST_NAME = 24


class FigureNames(NamedTuple):
    """Names as matplotlib can write them, none longer than 24 characters, and its families to write them with."""

    names: tuple[str, ...]
    families: list[str]


def figure_names(names: Sequence[str], *, font: FontPath = None, stand_in: str = "class") -> FigureNames:
    """Prepare names for a figure; "class 7" in place of one that no font can write, of which a warning tells once.

    Args:
        names: of the classes, by label, or of something else.
        font: a font file that is used for whatever it has.
        stand_in: what the numbers count.

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

    def lacking(text: str) -> str:
        text = text.replace(LEFT_TO_RIGHT, "")
        missing = [character for character in text if not any(_has(file, character) for file in files)]
        for character in missing:
            # of all that are missing, so that the letters of one script come from one font
            face = find_face(frozenset(missing)) or find_face(frozenset(character))
            if face is not None and face != OWN and face.path not in files and _has(face.path, character):
                files.append(face.path)
                families.append(_family(face.path))
        return "".join(character for character in missing if not any(_has(file, character) for file in files))

    unshaped = ""
    if not hasattr(ft2font, "__libraqm_version__"):
        unshaped = f"matplotlib does that from 3.11 on, this is {matplotlib.__version__}: pip install -U matplotlib"
    shown = replace_names(names, lacking=lacking, unshaped=unshaped, stand_in=stand_in)
    return shown, tuple(families)


@cache
def _characters(file: str) -> frozenset[int]:
    """What a font file has, as matplotlib sees it: of a collection the first font alone."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _has(file: str, character: str) -> bool:
    return ord(character) in _characters(file)


def _family(file: str) -> str:
    """Make a font file known to matplotlib; returns the name of its family."""
    from matplotlib.font_manager import fontManager, get_font

    if not any(entry.fname and Path(entry.fname) == Path(file) for entry in fontManager.ttflist):
        fontManager.addfont(file)
    return get_font(file).family_name


def _shortened(name: str) -> str:
    """A name as matplotlib writes it as it is: dollar signs begin formulas, underscores hide legend entries."""
    from_right, name = name.startswith(LEFT_TO_RIGHT), name.strip(LEFT_TO_RIGHT)
    name = (name if len(name) <= _LONGEST_NAME else cut(name, _LONGEST_NAME - 3)).replace("$", r"\$")
    if from_right:
        return f"{LEFT_TO_RIGHT}{name}{LEFT_TO_RIGHT}"
    return f" {name}" if name.startswith("_") else name
