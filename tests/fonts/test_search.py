"""A font is found by its characters in every font folder; a font without the characters is never used."""

import os

import matplotlib
import pytest
from fontTools.ttLib import TTFont

from rtdetr.errors import InputError
from rtdetr.fonts.search import OWN, Face, find_face, given_face, has
from tests.fonts.conftest import write_font

DEJAVU = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def face_of(text):
    return find_face(frozenset(text))


def test_characters_of_a_font_agree_with_its_table():
    table = TTFont(DEJAVU).getBestCmap()
    for character in "aÜжαشאक人あ한ก\u0301€☃\U0001f600\U00020000":
        assert has(Face(DEJAVU), character) == (ord(character) in table), character
    assert has(OWN, "a") and not has(OWN, "人")


def test_english_letters_are_in_pillows_own_font(machine):
    assert face_of("cat 0.95") == OWN


def test_the_font_that_has_all_letters_is_taken(machine):
    write_font(machine / "a" / "Half-Regular.ttf", "人")
    whole = write_font(machine / "b" / "Whole-Regular.ttf", "人犬")
    assert face_of("人犬") == Face(str(whole))
    assert face_of("人犬 cat") is None
    assert face_of("ж") == Face(DEJAVU)


def test_plain_fonts_come_before_bold_and_italic_ones(machine):
    write_font(machine / "Any-Bold.ttf", "人")
    write_font(machine / "Any-Italic.otf", "人")
    regular = write_font(machine / "Some" / "Any-Regular.ttf", "人")
    assert face_of("人") == Face(str(regular))


def test_placeholder_fonts_and_broken_files_are_skipped(machine):
    write_font(machine / "LastResort.otf", "人")
    (machine / "broken.ttf").write_bytes(b"\0\1\0\0")
    (machine / "empty.ttf").touch()
    assert face_of("人") is None


def test_fontconfig_is_used_if_installed(machine, tmp_path):
    write_font(machine / "First-Regular.ttf", "人")
    second = write_font(machine / "Second-Regular.ttf", "人")
    program = tmp_path / "bin" / "fc-match"
    program.parent.mkdir()
    # what it answers is not believed: of these, only the last one has the letter
    answer = "".join(rf"{path}\t{index}\n" for path, index in ((DEJAVU, 0), ("/gone.ttf", 0), (second, 65536)))
    program.write_text(f"#!/bin/sh\n[ $# = 4 ] && printf '{answer}'\n")
    program.chmod(0o755)
    assert face_of("人") == Face(str(second))


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "printf 'a.ttf\\tb\\n\\n'"])
def test_a_broken_fontconfig_is_ignored(machine, tmp_path, script):
    font = write_font(machine / "Some.ttf", "人")
    program = tmp_path / "bin" / "fc-match"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert face_of("人") == Face(str(font))


def test_a_given_font_is_preferred_for_the_characters_it_has(machine, tmp_path):
    given = given_face(write_font(tmp_path / "mine.ttf", "ab人"))
    assert find_face(frozenset("ab"), given) == find_face(frozenset("人"), given) == given
    assert find_face(frozenset("abc"), given) == OWN


@pytest.mark.parametrize("content", [None, b"no font", b""])
def test_a_given_font_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "font.ttf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the font .*font\.ttf: .*; pass a \.ttf or \.otf file"):
        given_face(path)
