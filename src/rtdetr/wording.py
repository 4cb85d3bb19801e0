"""Helpers for messages: plurals, sizes, and tables for a terminal."""

import unicodedata
from collections.abc import Callable, Sequence, Sized

_NO_WIDTH = ("Mn", "Me", "Cf")  # accents and marks that combine with the previous character


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 class" or "2,000 boxes"."""
    return f"{count:,} {plural(noun, count)}"


def are(things: Sized | int) -> str:
    """Return "is" or "are" for a number of things."""
    return "is" if (things if isinstance(things, int) else len(things)) == 1 else "are"


def have(things: Sized | int) -> str:
    """Return "has" or "have" for a number of things."""
    return "has" if are(things) == "is" else "have"


def occur(things: Sized | int) -> str:
    """Return "occurs" or "occur" for a number of things."""
    return "occurs" if are(things) == "is" else "occur"


def more_like_it(count: int) -> str:
    """Return a sentence for a message about the first of several problems; empty if there are no others."""
    return f"There {are(count)} {count:,} more like it" if count > 0 else ""


def listed(names: Sequence[object], most: int = 5, *, shown: Callable[[object], str] = str) -> str:
    """Return the first names, each as text by `shown`, and how many follow: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def bytes_text(number: float) -> str:
    """Return a size in the largest unit that gives at least 1, such as "1.5 GB" (1 GB is 10^9 bytes)."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = next((power for power in range(4) if number < 999.5 * 1000**power), 4)
    value = number / 1000**power
    return f"{value:.{1 if power and value < 99.5 else 0}f} {units[power]}"


def plural(noun: str, count: int) -> str:
    """Return the noun after a count, by the regular rules of English plurals."""
    if count == 1:
        return noun
    if noun.endswith(("s", "x", "tch", "nch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"


def width_of(text: str) -> int:
    """Return the terminal columns of a text: two for Chinese, Japanese and Korean characters, none for accents."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in _NO_WIDTH else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text
    )


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Pad a text with spaces to a width in columns; right-align it with `right`."""
    spaces = " " * (width - width_of(text))
    return spaces + text if right else text + spaces


def text_table(rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> str:
    """Format rows as a text table with columns two spaces apart.

    Args:
        rows: the cells; the first row is the header.
        right: for each column, whether it is right-aligned, as numbers are.
    """
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(padded(cell, width, right=end) for cell, width, end in zip(row, widths, right, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
