"""Machines with certain fonts, and real fonts for the scripts of the world."""

import os
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from rtdetr.fonts import figure, search, text

REAL_FONTS = Path(__file__).parents[2] / ".venv" / "fonts" / "usr" / "share"  # `make .venv/fonts` puts them there
CACHED = (
    *(
        search.has,
        search._probe,
        search._candidates,
        search._usual_faces,
        search._faces_of_fontconfig,
        search._installed_faces,
    ),
    *(text._shown, text._parts, text._warn_once, figure._prepared, figure._characters),
)


def write_font(path, characters, *, family="Made Up"):
    """A font that draws a character as a bar, the higher the later it comes, and unknown ones as a frame."""
    names = [".notdef", *(f"g{ord(character):x}" for character in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"g{ord(character):x}" for character in characters})
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        height = 800 if number == 0 else 100 + 600 * number // len(names)
        for inset in (0, 100) if number == 0 else (0,):
            corners = [(50 + inset, inset), (50 + inset, height - inset), (750 - inset, height - inset)]
            corners = [*corners, (750 - inset, inset)]
            pen.moveTo(corners[0])
            for corner in corners[1:] if inset == 0 else corners[:0:-1]:
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 50)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=200)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


def clear_caches():
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The folder for fonts of a machine that has no others than matplotlib's, and no fontconfig."""
    from matplotlib.font_manager import fontManager

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    before = list(fontManager.ttflist)
    clear_caches()
    yield tmp_path / "share" / "fonts"
    clear_caches()
    fontManager.ttflist[:] = before


@pytest.fixture
def real_fonts(monkeypatch):
    """The fonts of this machine, and those that the Makefile fetches."""
    if REAL_FONTS.is_dir():
        monkeypatch.setenv("XDG_DATA_HOME", os.fspath(REAL_FONTS))
    clear_caches()
    yield
    clear_caches()
