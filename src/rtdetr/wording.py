"""Numbers in sentences: the one place that makes plurals."""

from collections.abc import Sized


def counted(count: int, noun: str) -> str:
    """A count with its noun, such as "1 class" and "2,000 boxes"."""
    return f"{count:,} {plural(noun, count)}"


def are(things: Sized | int) -> str:
    """The verb of that many things."""
    return "is" if (things if isinstance(things, int) else len(things)) == 1 else "are"


def plural(noun: str, count: int) -> str:
    """The noun as it stands behind a count, by the regular rules of English."""
    if count == 1:
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"
