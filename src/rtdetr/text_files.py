"""Read text files from other programs (labels, lists, YAML, XML, JSON) in the encodings that are used in practice.

| bytes                                        | read as                                                            |
|----------------------------------------------|--------------------------------------------------------------------|
| a byte-order mark of UTF-8, UTF-16 or UTF-32 | that encoding; the mark is removed                                 |
| zero bytes, no mark                          | UTF-16, if only one byte order gives text (see `_without_mark`)    |
| anything else                                | the encoding that the file declares (XML can), or else UTF-8       |

Nothing is guessed: other bytes are an error that names the file and the encoding that was tried.
Line endings are unchanged; `str.splitlines` handles all of them, including a lone carriage return.
"""

import codecs
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

from rtdetr.errors import RTDETRError

_MARKS = {  # UTF-32 first: one of its marks begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NOT_TEXT = {"Cc", "Cn", "Co", "Cs"}  # control characters, unassigned, private, surrogates
_REMEDY = "Save the file as UTF-8"


def read_text(path: str | os.PathLike[str], *, what: str, error: type[RTDETRError]) -> str:
    """Read a text file in any encoding that can be determined.

    Args:
        path: the file.
        what: kind of file for the message, such as "label file".
        error: class of the error to raise.

    Raises:
        RTDETRError: of class `error`: the file cannot be read, or its encoding cannot be determined.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: not a possible file name
        raise error(f"cannot read the {what} {path}: {getattr(problem, 'strerror', None) or problem}") from None
    return decode_text(content, source=path, error=error)


def read_json(path: Path, *, what: str, error: type[RTDETRError]) -> Any:
    """Read a JSON file.

    Raises:
        RTDETRError: of class `error`: as for `read_text`, or it is not valid JSON.
    """
    try:
        return json.loads(read_text(path, what=what, error=error))
    except (json.JSONDecodeError, RecursionError) as problem:
        raise error(f"{path} contains invalid JSON: {problem}") from None


def decode_text(
    content: bytes, *, source: str | os.PathLike[str], error: type[RTDETRError], declared: str | None = None
) -> str:
    """Decode the bytes of a file to text, without the byte-order mark.

    Args:
        content: all bytes of the file.
        source: the file, for messages.
        error: class of the error to raise.
        declared: encoding that the file declares; a byte-order mark and zero bytes take precedence.

    Raises:
        RTDETRError: of class `error`: the encoding cannot be determined.
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
        reason = " (its byte-order mark)" if mark else " (the encoding it declares)" if declared else ""
        raise error(
            f"{source}: expected text in UTF-8, or UTF-16 with a byte-order mark; tried {encoding.upper()}{reason}, "
            f"but byte {start + 1} in line {line} is invalid. {_REMEDY}"
        ) from None
    if "\0" in text:
        raise error(f"{source}: expected text, got zero bytes; tried {encoding.upper()}. {_REMEDY}")
    return text


def _without_mark(content: bytes) -> str | None:
    """Decode UTF-16 without a byte-order mark; return None if that is uncertain.

    It is certain if only one byte order gives text that is mostly ASCII, such as rows of numbers, or if only one gives
    text at all and the bytes are not UTF-8 damaged by zeros.
    """
    readings = [text for order in ("utf-16-le", "utf-16-be") if (text := _decoded(content, order)) is not None]
    plain = [text for text in readings if 2 * len(text.encode("ascii", "ignore")) > len(text)]
    if len(plain) == 1 and len(plain[0]) > 1:  # a single pair of bytes could be a Latin or a Chinese character
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
