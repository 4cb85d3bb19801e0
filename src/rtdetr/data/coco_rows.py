"""Read the lists of a COCO file, "images", "annotations" and "categories", column by column.

Values in a nonstandard form are read if they are unambiguous, see `coco_values.py`, and counted.
"""

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rtdetr.data.coco_values import OTHER_NAMES, OTHER_NUMBERS, READ, WITHOUT_ID
from rtdetr.data.records import Part

EXCLUDING_KINDS = ("unreadable-entry", "unknown-image")  # kinds of problem that exclude a row
_NOUNS = {"images": "image", "annotations": "annotation", "categories": "category"}
_MISSING = object()
_T = TypeVar("_T")


class Rows:
    """One list of the file; errors in its rows become problems of the split.

    Attributes:
        listed: the list in the file; empty if there is none.
        rows: the JSON objects in it.
        bad: positions of excluded rows; further problems of these are not noted.
        forms: number of values read from each nonstandard form, by its description.
        images: for annotations, the position of the image in `Part.images`, once it is known.
    """

    def __init__(self, part: Part, document: dict[str, Any], kind: str) -> None:
        """Take one list from a parsed JSON file."""
        self._part, self._kind, self._noun = part, kind, _NOUNS[kind]
        self.bad: set[int] = set()
        self.forms: Counter[str] = Counter()
        self.images: Sequence[int] = ()
        self.same_id = f"has the same id as another entry of '{kind}'; ids must differ"
        found = document.get(kind)
        self.listed: list[Any] = found if isinstance(found, list) else []
        self.rows: list[dict[str, Any]] = self.listed
        self._places: Sequence[int] = range(len(self.listed))
        file, error = part.source, f"{part.source}: {missing_list_message(document, kind)}"
        if not isinstance(found, list):
            part.problem("unreadable-entry", file=file.name, detail=f"'{kind}' is not a list", error=error)
        elif not set(map(type, found)) <= {dict}:
            self._places = [place for place, row in enumerate(found) if type(row) is dict]
            self.rows = [found[place] for place in self._places]
            for place, row in enumerate(found):
                if type(row) is not dict:
                    name, detail = _name(self._noun, place), f"expected an object, got {reprlib.repr(row)}"
                    part.problem("unreadable-entry", file=file.name, annotation=name, detail=detail, error=error)
        elif not found and kind != "annotations":  # the doctor reports an empty split itself
            error = f"{file}: '{kind}' is empty; expected at least one entry"
            part.problem("unreadable-entry", file=file.name, error=error, is_shown=False)

    def valid_positions(self) -> Sequence[int]:
        """Return the positions of the rows that are not excluded."""
        everything = range(len(self.rows))
        return [position for position in everything if position not in self.bad] if self.bad else everything

    def of_valid_rows(self, values: list[_T]) -> list[_T]:
        """Return the values of the rows that are not excluded."""
        return [values[position] for position in self.valid_positions()] if self.bad else values

    def name(self, position: int) -> str:
        """Return the name of a row in messages."""
        return _name(self._noun, self._places[position], self.rows[position].get("id"))

    def row_namers(self) -> tuple[Callable[[int], str], Callable[[int], str]]:
        """Return functions that name the rows, for the doctor and for training, without keeping the file in memory."""
        file, noun, places = self._part.source, self._noun, self.of_valid_rows(list(self._places))
        ids, image_ids = (
            self.of_valid_rows([row.get(key, _MISSING) for row in self.rows]) for key in ("id", "image_id")
        )

        def name(row: int) -> str:
            return _name(noun, places[row], ids[row])

        return name, lambda row: f"{file}: {name(row)}{_of_image(image_ids[row])}"

    def note(self, position: int, kind: str, problem: str, *, detail: str = "", is_error: bool = True) -> None:
        """Note a problem with a row.

        Args:
            position: position of the row.
            kind: kind of finding.
            problem: message that continues after the name of the row.
            detail: a different message for the doctor.
            is_error: whether training raises it.
        """
        if position in self.bad:
            return
        if kind in EXCLUDING_KINDS:
            self.bad.add(position)
        row, name = self.rows[position], self.name(position)
        image = self.images[position] if self.images else -1
        file = self._part.images[image].file_name if image >= 0 else row.get("file_name")
        error = f"{self._part.source}: {name}{_of_image(row.get('image_id', _MISSING))} {problem}" if is_error else ""
        self._part.problem(
            kind,
            file=file if isinstance(file, str) else self._part.source.name,
            annotation=name,
            detail=detail or problem,
            error=error,
            image=image if image >= 0 else None,
        )

    def column(
        self,
        key: str,
        types: set[type],
        expected: str,
        *,
        kind: Callable[[Any], str] = lambda _: "unreadable-entry",
        default: Any = None,
        named: Callable[[], dict[str, Any]] | None = None,
        wrong: set[int] | None = None,
    ) -> list[Any]:
        """Return the value of one key in every row, converted from nonstandard forms and names if unambiguous.

        Args:
            key: the key.
            types: allowed types; values of other types are noted as problems and returned unchanged.
            expected: description of the allowed values.
            kind: returns the kind of problem of a value that is not allowed.
            default: value if the key is missing.
            named: returns the ids that names stand for.
            wrong: rows to skip; rows with a value that is not allowed are added.
        """
        values = [row.get(key, default) for row in self.rows]
        if named is not None and str in map(type, values):
            ids = named()
            names = sum(type(value) is str and value in ids for value in self.of_valid_rows(values))
            values = [ids.get(value, value) if type(value) is str else value for value in values]
            self.forms.update({OTHER_NAMES[key]: names} if names else {})
        if set(map(type, values)) <= types:
            return values
        if key in READ:
            written, values = values, [value if type(value) in types else READ[key](value) for value in values]
            changed = [new is not old for new, old in zip(values, written, strict=True)]
            read = sum(self.of_valid_rows(changed))
            self.forms.update({OTHER_NUMBERS: read} if read else {})
        for position, value in enumerate(values):
            if type(value) not in types and (wrong is None or position not in wrong):
                got = f"{key} {reprlib.repr(value)}" if key in self.rows[position] else f"no {key!r}"
                self.note(position, kind(value), f"has {got}; expected {expected}")
                if wrong is not None:
                    wrong.add(position)
        return values

    def integers(
        self,
        key: str,
        expected: str,
        *,
        kind: Callable[[Any], str],
        optional: bool = False,
        named: Callable[[], dict[str, Any]] | None = None,
        wrong: set[int] | None = None,
    ) -> list[Any]:
        """Return a column of integers of at most 64 bits; None for missing values if `optional`."""
        types = {int, type(None)} if optional else {int}
        values = self.column(key, types, expected, kind=kind, named=named, wrong=wrong)
        if any(type(value) is int and not -(2**63) <= value < 2**63 for value in values):
            for position, value in enumerate(values):
                if type(value) is int and not -(2**63) <= value < 2**63:
                    self.note(
                        position, kind(value), f"has {key} {reprlib.repr(value)}, which does not fit into 64 bits"
                    )
        return values

    def ids(self, *, optional: bool = False) -> list[Any]:
        """Return the ids; None for missing ones if `optional`."""
        ids = self.integers(
            "id", "an integer", kind=lambda value: "wrong-id" if is_id(value) else "unreadable-entry", optional=optional
        )
        missing = sum(value is None for value in self.of_valid_rows(ids))
        self.forms.update({WITHOUT_ID: missing} if missing else {})
        return ids

    def repeated(self, ids: list[Any]) -> list[int]:
        """Return the positions of rows that repeat the id of an earlier row."""
        if not self.bad and None not in ids and len(set(ids)) == len(ids):
            return []
        seen: set[Any] = set()
        repeated = []
        for position in self.valid_positions():
            number = ids[position]
            if number in seen:
                repeated.append(position)
            elif number is not None:
                seen.add(number)
        return repeated


def missing_list_message(document: Any, kind: str) -> str:
    """Return the message for a file that lacks one of its lists."""
    is_missing = not isinstance(document, dict) or document.get(kind) is None
    return (
        "expected a COCO file, an object with lists of objects 'images', 'annotations' and "
        f"'categories', but '{kind}' is {'missing' if is_missing else 'not such a list'}"
    )


def is_id(value: Any) -> bool:
    """Return whether a value can stand for an id, valid or not."""
    return isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def _name(noun: str, place: int, number: Any = None) -> str:
    if number is None or number is _MISSING:
        return f"{noun} number {place + 1} of the list"
    return f"{noun} {reprlib.repr(number)}"


def _of_image(image_id: Any) -> str:
    return "" if image_id is _MISSING else f" (image {reprlib.repr(image_id)})"
