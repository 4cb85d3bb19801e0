"""Texts in several fonts, right-to-left text, and names that no font can draw."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from rtdetr.detections import Detections
from rtdetr.drawing import draw
from rtdetr.fonts import TextLine, cut, lay_out, shown_names
from rtdetr.fonts.search import OWN
from rtdetr.fonts.text import LEFT_TO_RIGHT
from tests.fonts.conftest import REAL_FONTS, write_font

needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no FriBiDi here")
# by language: what is drawn in a font that every machine with matplotlib has, and the others
EUROPEAN_AND_SEMITIC = {"Russian": "собака", "Greek": "άλογο", "Arabic": "قطة سوداء", "Hebrew": "חתול"}
ASIAN = {"Chinese": "红绿灯", "Japanese": "犬とネコ", "Korean": "고양이", "Hindi": "बिल्ली", "Thai": "ป้ายหยุด"}
ASIAN |= {"Bengali": "বিড়াল", "Tamil": "பூனை", "mixed": "人 person"}


def pixels(text, size=32):
    line = TextLine(lay_out(text), size)
    image = Image.new("L", (max(line.width, 1) + 8, line.ascent + line.descent + 8))
    line.draw(ImageDraw.Draw(image), 4, 4 + line.ascent, color=255)
    return np.asarray(image)


def runs(text):
    return [part.text for part in lay_out(text)]


def test_one_font_for_the_whole_text_where_there_is_one(machine):
    write_font(machine / "Han.ttf", "人")
    both = write_font(machine / "HanAndLatin.ttf", "人person 0.87")
    assert [part.face.path for part in lay_out("人 person 0.87")] == [str(both)]


def test_otherwise_a_font_for_each_script(machine):
    write_font(machine / "Han.ttf", "人犬")
    parts = lay_out("人 person 犬 0.87")
    assert [part.text for part in parts] == ["人 ", "person ", "犬 ", "0.87"]
    assert [part.face == OWN for part in parts] == [False, True, False, True]
    line = TextLine(parts, 32)
    drawn = pixels("人 person 犬 0.87")
    assert line.width == pytest.approx(np.flatnonzero(drawn.any(0))[-1] - 4, abs=4)


def test_letters_of_one_script_in_two_fonts(machine):
    write_font(machine / "One.ttf", "人")
    write_font(machine / "Other.ttf", "犬")
    assert runs("人犬") == ["人", "犬"]


def test_names_without_a_font_become_numbers_with_one_warning(machine, caplog):
    names = ("cat", "猫", "Ж", "ก", "หมา")
    for _ in range(3):
        assert shown_names(names) == ("cat", "class 1", "Ж", "class 3", "class 4")
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "'猫', 'ก', 'หมา' (class names)" in message
    assert "apt install fonts-noto-cjk fonts-noto-core)" in message and "--font" in message


@pytest.mark.parametrize(
    ("name", "package"),
    [("人", "cjk"), ("カ", "cjk"), ("한", "cjk"), ("क", "core"), ("ก", "core"), ("\U0001f9a9", "symbola")],
)
def test_the_warning_names_the_package_of_the_script(machine, caplog, name, package):
    assert shown_names([name]) == ("class 0",)
    assert package in caplog.text


def test_a_name_that_a_font_has_in_part_counts_as_missing(machine):
    write_font(machine / "Han.ttf", "人")
    assert shown_names(["人", "人犬"]) == ("人", "class 1")


def test_scripts_that_need_shaping_are_not_drawn_without_it(machine, caplog, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    assert shown_names(["cat", "قطة", "собака"]) == ("cat", "class 1", "собака")
    assert "libfribidi0" in caplog.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a  b\n c", "a b c"),
        ("cafe\u0301", "café"),
        ("a\x07b\u202e\ufe0fc\ud800", "abc"),
        ("", ""),
        ("ز", f"{LEFT_TO_RIGHT}ز{LEFT_TO_RIGHT}"),
    ],
)
def test_names_are_cleaned(machine, name, shown):
    assert shown_names([name]) == (shown,)
    assert shown_names(shown_names([name])) == (shown,)


def test_empty_texts_are_allowed(machine):
    assert lay_out("") == ()
    assert TextLine((), 20).width == 0
    assert shown_names(()) == ()


@pytest.mark.parametrize(("length", "expected"), [(9, "บ้าน cat"), (5, "บ้าน ..."), (2, "บ้..."), (1, "..."), (0, "...")])
def test_cutting_keeps_combined_characters_together(length, expected):
    assert cut("บ้าน cat", length) == expected


@needs_raqm
def test_arabic_is_shaped_and_drawn_from_right_to_left(machine):
    apart = sum(TextLine(lay_out(letter), 32).width for letter in "سلام")
    assert TextLine(lay_out("سلام"), 32).width < 0.85 * apart
    alef_last = pixels("سا")  # a tall stroke, which stands on the left
    columns = (alef_last > 128).sum(0)
    assert columns.argmax() < alef_last.shape[1] / 2


@needs_raqm
def test_a_score_stays_on_the_right_of_a_name_read_from_the_right(machine):
    (name,) = shown_names(["חתול"])
    assert runs(f"{name} 0.87")[-1].strip() == "0.87"
    whole, alone = (pixels(text).sum(0) for text in (f"{name} 0.87", "חתול"))
    width = TextLine(lay_out("חתול"), 32).width
    assert np.array_equal(whole[:width], alone[:width])


def drawn_as_name(name):
    """Whether an image shows the name and not the number."""
    (shown,) = shown_names([name])
    if shown == "class 0":
        return False
    found = Detections([[20, 60, 180, 100]], [0.9], [0], (name,), (200, 120))
    numbered = Detections([[20, 60, 180, 100]], [0.9], [0], ("class 0",), (200, 120))
    image = Image.new("RGB", (200, 120))
    return bool((np.asarray(draw(image, found)) != np.asarray(draw(image, numbered))).any())


@needs_raqm
@pytest.mark.parametrize("name", EUROPEAN_AND_SEMITIC.values(), ids=EUROPEAN_AND_SEMITIC)
def test_european_and_semitic_names_are_drawn(machine, name):
    assert drawn_as_name(name)


@pytest.mark.slow  # only there are the fonts sure to be fetched
@needs_raqm
@pytest.mark.parametrize("name", ASIAN.values(), ids=ASIAN)
def test_asian_names_are_drawn(real_fonts, name):
    if not drawn_as_name(name):
        assert not REAL_FONTS.is_dir()
        pytest.skip("no font for this script here: make .venv/fonts")


@pytest.mark.slow
@needs_raqm
def test_hindi_is_shaped(real_fonts):
    if shown_names(["कि"]) == ("class 0",):
        assert not REAL_FONTS.is_dir()
        pytest.skip("no font for this script here: make .venv/fonts")
    both, consonant = pixels("कि"), pixels("क")  # the vowel sign is written before the consonant it follows
    assert (both[:, : consonant.shape[1] - 8] != consonant[:, :-8]).any()
