"""Read the text files of strangers: labels, lists, YAML, XML and JSON, in the encodings that programs really write.

| bytes                                        | read as                                                            |
|----------------------------------------------|--------------------------------------------------------------------|
| a byte-order mark of UTF-8, UTF-16 or UTF-32 | that encoding; the mark is no part of the text                     |
| zero bytes, no mark                          | UTF-16, if one byte order alone gives text (see `_without_mark`)   |
| anything else                                | what the file itself declares (XML can), else UTF-8                |

Nothing is guessed: bytes that fit none of these are an error that names the file and the encoding that was tried.
Line ends stay as they are; `str.splitlines` understands all of them, a lone carriage return too.
"""

import codecs
import os
import unicodedata
from pathlib import Path

from rtdetr.errors import RTDETRError

_MARKS = {  # those of UTF-32 first: the one of UTF-16 is the beginning of one of them
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NOT_TEXT = {"Cc", "Cn", "Co", "Cs"}  # control characters, unassigned, private, surrogates
_REMEDY = "Save the file as UTF-8"


def read_text(path: str | os.PathLike[str], *, what: str, error: type[RTDETRError]) -> str:
    """Read a text file in any encoding that is certain.

    Args:
        path: the file.
        what: what it is, for the message: "label file".
        error: the class of errors to raise.

    Raises:
        RTDETRError: of class `error`: the file cannot be read, or its encoding is not certain.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: no file can have such a name
        raise error(f"cannot read the {what} {path}: {getattr(problem, 'strerror', None) or problem}") from None
    return decode_text(content, source=path, error=error)


def decode_text(
    content: bytes, *, source: str | os.PathLike[str], error: type[RTDETRError], declared: str | None = None
) -> str:
    """The text that the bytes of a file stand for, without a byte-order mark.

    Args:
        content: all bytes of the file.
        source: the file, for messages.
        error: the class of errors to raise.
        declared: encoding that the file itself names; a byte-order mark and zero bytes outweigh it.

    Raises:
        RTDETRError: of class `error`: the encoding is not certain.
    """
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    if not mark and b"\0" in content:
        text = _without_mark(content)
        if text is None:
            raise error(f"{source}: expected text, got zero bytes; tried UTF-8 and UTF-16. {_REMEDY}")
        return text
    encoding = _MARKS[mark] if mark else declared or "utf-8"
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeError as problem:
        start = len(mark) + problem.start if isinstance(problem, UnicodeDecodeError) else 0
        line = len((content[:start] + b".").splitlines())
        said = "by its byte-order mark " if mark else "as it declares " if declared else ""
        raise error(
            f"{source}: expected text in UTF-8, or UTF-16 with a byte-order mark; tried {encoding.upper()} {said}and "
            f"byte {start + 1}, in line {line}, does not fit. {_REMEDY}"
        ) from None
    if "\0" in text:
        raise error(f"{source}: expected text, got zero bytes; tried {encoding.upper()}. {_REMEDY}")
    return text


def _without_mark(content: bytes) -> str | None:
    """Text in UTF-16 that has no byte-order mark; None where that is not certain.

    It is certain if one byte order alone gives text that is mostly ASCII, as rows of numbers are; or if one alone
    gives text at all, and the bytes are not UTF-8 either, into which zeros could have got by damage.
    """
    readings = [text for order in ("utf-16-le", "utf-16-be") if (text := _decoded(content, order)) is not None]
    plain = [text for text in readings if 2 * len(text.encode("ascii", "ignore")) > len(text)]
    if len(plain) == 1 and len(plain[0]) > 1:  # one pair of bytes alone may be a Latin or a Chinese character
        return plain[0]
    may_be_utf8 = _decoded(content.replace(b"\0", b""), "utf-8") is not None
    return readings[0] if len(readings) == 1 and not may_be_utf8 else None


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    is_text = all(character.isspace() or unicodedata.category(character) not in _NOT_TEXT for character in set(text))
    return text if is_text else None
