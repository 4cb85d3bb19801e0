import ast
import re
from pathlib import Path

import pytest

import rtdetr
from rtdetr.wording import are, bytes_text, counted, have, listed, more_like_it, padded, plural, text_table, width_of


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (3, "box", "3 boxes"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
        (2, "entry", "2 entries"),
        (2, "query", "2 queries"),
        (2, "day", "2 days"),
        (12345, "label file", "12,345 label files"),
    ],
)
def test_counts(count, noun, text):
    assert counted(count, noun) == text


def test_sizes():
    sizes = [0, 1, 999, 999.6, 1000, 12_345, 99_400, 99_960, 999_499, 999_500, 1.5e9, 2e13]
    assert [bytes_text(size) for size in sizes] == (
        "0 bytes|1 bytes|999 bytes|1.0 kB|1.0 kB|12.3 kB|99.4 kB|100 kB|999 kB|1.0 MB|1.5 GB|20.0 TB".split("|")
    )


def test_verbs():
    assert (are(1), are(0), are([1]), have(1), have([1, 2])) == ("is", "are", "is", "has", "have")
    assert more_like_it(0) == "" and more_like_it(1) == "There is 1 more like it"
    assert plural("kind", 1) == "kind"


@pytest.mark.parametrize(
    ("text", "width"), [("cat", 3), ("自転車", 6), ("café", 4), ("cafe\u0301", 4), ("ไทย", 3), ("ｶﾀｶﾅ", 4), ("", 0)]
)
def test_widths_in_a_terminal(text, width):
    assert width_of(text) == width
    assert padded(text, 8) == text + " " * (8 - width)


def test_a_table_with_wide_letters_is_aligned():
    lines = text_table([["class", "n"], ["自転車", "10"], ["a", "5"]], right=[False, True]).splitlines()
    assert lines == ["class    n", "自転車  10", "a        5"]
    assert len({width_of(line) for line in lines}) == 1


NAMES = {"name", "split", "part.name"}  # of splits, in the heads of tables


def test_counts_in_messages_use_counted():
    """A count before a fixed plural, as in f"{count} images", reads "1 images" some day."""
    nouns = (
        "classes|images|boxes|steps|epochs|queries|objects|entries|annotations|batches|label files|threads|processes"
    )
    wrong = re.compile(rf"^ ?({nouns})\b(?!/)")
    found = []
    for file in sorted(Path(rtdetr.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                for value, text in zip(node.values, node.values[1:], strict=False):
                    if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                        what = ast.unparse(value.value)
                        if wrong.match(str(text.value)) and what not in NAMES:
                            found.append(f"{file.name}:{node.lineno}: {{{what}}}{text.value}")
    assert found == []


def test_listed() -> None:
    assert listed([]) == "" and listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(list("abcdefg"), shown=repr) == "'a', 'b', 'c', 'd', 'e' and 2 more"
