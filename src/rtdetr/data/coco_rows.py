"""The lists of a COCO file, "images", "annotations" and "categories", read column by column.

Values in another form that can mean one thing only are read, see `coco_values.py`, and counted.
"""

import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rtdetr.data.coco_values import OTHER_NAMES, OTHER_NUMBERS, READ, WITHOUT_ID
from rtdetr.errors import DatasetError


class Rows(NamedTuple):
    """One list of the file, read column by column; an error names the first row that is wrong.

    places: where the rows stand in the file's list, counted from 0.
    forms: how often which other form of a value was read, in words.
    """

    file: Path
    kind: str
    rows: list[dict[str, Any]]
    places: Sequence[int]
    forms: Counter[str]

    @classmethod
    def of(cls, document: Any, file: Path, kind: str) -> "Rows":
        """One list of a file that was read as JSON.

        Raises:
            DatasetError: it is missing, is no list of objects, or is empty where it must not be.
        """
        rows = document.get(kind) if isinstance(document, dict) else None
        if not isinstance(rows, list) or any(type(row) is not dict for row in rows):
            raise DatasetError(
                f"{file}: expected a COCO file, an object with lists of objects 'images', 'annotations' and "
                f"'categories'; '{kind}' is {'missing' if rows is None else 'no such list'}"
            )
        if not rows and kind != "annotations":
            raise DatasetError(f"{file}: '{kind}' is empty; expected at least one entry")
        return cls(file, kind, rows, range(len(rows)), Counter())

    def where_true(self, kept: np.ndarray) -> "Rows":
        """The rows that are true in `kept`, bool (rows,)."""
        positions = np.flatnonzero(kept).tolist()
        rows, places = ([column[i] for i in positions] for column in (self.rows, self.places))
        return self._replace(rows=rows, places=places)

    def where(self, position: int) -> str:
        """The file and which row."""
        row = self.rows[position]
        name = {"images": "image", "annotations": "annotation", "categories": "category"}[self.kind]
        name += f" {reprlib.repr(row['id'])}" if "id" in row else f" number {self.places[position] + 1} of the list"
        if "image_id" in row:
            name += f" (image {reprlib.repr(row['image_id'])})"
        return f"{self.file}: {name}"

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise the error of one row: file, which row, what is wrong."""
        raise DatasetError(f"{self.where(position)} {problem}")

    def refuse(self, key: str, is_known: np.ndarray, explanation: str) -> NoReturn:
        """Raise the error of the first row whose reference under `key` is not known, bool (rows,)."""
        row = int((~is_known).argmax())
        self.fail(row, f"has {key} {self.rows[row][key]}, which does not exist: {explanation}")

    def column(
        self,
        key: str,
        types: set[type],
        expected: str,
        *,
        default: Any = None,
        named: Callable[[], dict[str, int]] | None = None,
    ) -> list[Any]:
        """Values of one key in every row, all of one of the types, or of a form or a name that stands for one."""
        values = [row.get(key, default) for row in self.rows]
        if named is not None and str in map(type, values):
            ids = named()
            names = sum(type(value) is str and value in ids for value in values)
            values = [ids.get(value, value) if type(value) is str else value for value in values]
            self.forms.update({OTHER_NAMES[key]: names} if names else {})
        if not set(map(type, values)) <= types and key in READ:
            written, values = values, [value if type(value) in types else READ[key](value) for value in values]
            read = sum(new is not old for new, old in zip(values, written, strict=True))
            self.forms.update({OTHER_NUMBERS: read} if read else {})
        if not set(map(type, values)) <= types:
            position = next(i for i, value in enumerate(values) if type(value) not in types)
            got = f"{key} {reprlib.repr(values[position])}" if key in self.rows[position] else f"no {key!r}"
            self.fail(position, f"has {got}; expected {expected}")
        return values

    def integers(
        self, key: str, *, optional: bool = False, named: Callable[[], dict[str, int]] | None = None
    ) -> np.ndarray:
        """The integers of one key; those that are there, where it is optional; for names those that `named` has."""
        expected = "an integer" if named is None else "an integer, or a name that one entry alone has"
        values = self.column(key, {int, type(None)} if optional else {int}, expected, named=named)
        if optional:
            values = [value for value in values if value is not None]
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            position = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
            self.fail(position, f"has a {key} beyond 64 bits")

    def unique_ids(self, *, optional: bool = False) -> np.ndarray:
        """The ids, which must differ; those that are there, where they are optional."""
        ids = self.integers("id", optional=optional)
        if len(ids) < len(self.rows):
            self.forms[WITHOUT_ID] += len(self.rows) - len(ids)
        if len(np.unique(ids)) < len(ids):
            _, first = np.unique(ids, return_index=True)
            repeated = int(np.setdiff1d(np.arange(len(ids)), first)[0])
            if optional:
                repeated = [i for i, row in enumerate(self.rows) if row.get("id") is not None][repeated]
            self.fail(repeated, f"has an id that another entry of '{self.kind}' has too; ids must differ")
        return ids
