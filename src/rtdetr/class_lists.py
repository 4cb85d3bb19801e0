"""Classes that a user gives for a model that names none: `--classes` of the command line, `categories=` in Python.

coco, voc       the 80 classes of COCO, the 20 of Pascal VOC
FILE            COCO's JSON (its `categories`), a JSON or YAML file with names, or a text file with one name per line
ids             names are unknown; rows of the model are the category ids of a dataset
ids:FILE        rows of the model are the category ids of FILE; unused rows are called "id 0", ...
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rtdetr.categories import COCO80, VOC20, Categories, Category
from rtdetr.errors import ConfigError, InputError
from rtdetr.files import with_home
from rtdetr.text_files import read_text
from rtdetr.wording import counted
from rtdetr.yaml_loaders import TextLoader

GivenClasses = Categories | Sequence[str] | Mapping[int, str] | str | os.PathLike[str]
_KNOWN = {"coco": COCO80, "voc": VOC20}
_IDS = "ids"


class ClassList(NamedTuple):
    """Classes, and how the rows of a model belong to them.

    categories: None: only their ids are known, which are the rows.
    by_id: rows are category ids; otherwise, rows are the classes in their order, where the numbers agree.
    source: who says so, for messages.
    """

    categories: Categories | None
    by_id: bool
    source: str

    def for_rows(self, count: int | None) -> Categories:
        """Return one class for each row of a model.

        Args:
            count: number of rows; None: the model does not show it.

        Raises:
            ConfigError: these are not the classes of a model with so many rows.
        """
        given = self.categories
        if given is None:
            if count is None:
                raise ConfigError(f"this file does not show how many classes it has: write {_IDS}:FILE, not {_IDS}")
            return Categories.of_ids(count)
        last = max(given.ids, default=-1)
        if self.by_id or (count not in (None, len(given)) and count == last + 1):
            try:
                return given.by_id(count)
            except InputError as error:
                raise ConfigError(f"{self.source}: {error}") from None
        if count not in (None, len(given)):
            raise ConfigError(
                f"{self.source} has {counted(len(given), 'class')} with ids up to {last}, and the model has "
                f"{counted(count or 0, 'row')}: expected as many classes as rows, or one row for each id from 0 on. "
                f"Give the classes that the model was trained on; {_IDS}:FILE takes rows for category ids"
            )
        return given

    def naming(self, known: Categories | None, count: int | None, *, model: object) -> Categories:
        """Return the classes of a model that may have some already, which are kept unless they are stand-ins for names.

        Args:
            known: classes that the model has.
            count: number of its rows; None: it does not show it.
            model: its file, for messages.

        Raises:
            ConfigError: the model names other classes itself, or as for `for_rows`.
        """
        if known is None or known in (Categories.numbered(len(known)), Categories.of_ids(len(known))):
            return self.for_rows(count)
        if self.categories != known:
            raise ConfigError(
                f"{model} names its {counted(len(known), 'class')} itself; leave categories out (--classes)"
            )
        return known


def class_list(given: GivenClasses) -> ClassList:
    """Return the classes that a user gives, in any of their forms.

    Raises:
        ConfigError: no such file, a file without classes, or something else than names.
    """
    if isinstance(given, Categories):
        return ClassList(given, by_id=False, source="categories")
    if isinstance(given, str | os.PathLike):
        return _read(os.fspath(given))
    return ClassList(_of_names(given, "categories"), by_id=False, source="categories")


def _read(text: str) -> ClassList:
    if text == _IDS:
        return ClassList(None, by_id=True, source=text)
    if text in _KNOWN:
        return ClassList(_KNOWN[text], by_id=False, source=text)
    by_id = text.startswith(f"{_IDS}:")
    name = text.removeprefix(f"{_IDS}:") if by_id else text
    if by_id and name in _KNOWN:
        return ClassList(_KNOWN[name], by_id=True, source=name)
    return ClassList(_read_file(with_home(name)), by_id=by_id, source=name)


def _read_file(path: Path) -> Categories:
    if not path.is_file():
        raise ConfigError(f"no such file of class names: {path}. Expected a file, {', '.join(_KNOWN)} or {_IDS}")
    text = read_text(path, what="class names", error=ConfigError)
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            return _of_document(json.loads(text), path)
        if suffix in (".yml", ".yaml"):
            return _of_document(yaml.load(text, Loader=TextLoader), path)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not valid {suffix[1:].upper()}: {' '.join(str(error).split())[:200]}") from None
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _of_names(lines, str(path))


def _of_document(content: Any, path: Path) -> Categories:
    """The classes of a JSON or YAML file: COCO's `categories`, `names` of YOLO's data.yaml, or names alone."""
    if isinstance(content, Mapping) and "categories" in content:
        rows = content["categories"]
        try:
            return Categories.from_json(rows if isinstance(rows, list) else [rows])
        except InputError as error:
            raise ConfigError(f"{path}: categories: {error}") from None
    return _of_names(content.get("names", content) if isinstance(content, Mapping) else content, str(path))


def _of_names(names: Any, source: str) -> Categories:
    """Classes from a list of names, whose ids are 0, 1, 2, ..., or from a mapping of ids to names."""
    pairs = list(names.items()) if isinstance(names, Mapping) else list(enumerate(names)) if _is_list(names) else []
    good = all(str(number).isdecimal() and isinstance(name, str) and name.strip() for number, name in pairs)
    if not pairs or not good:
        raise ConfigError(
            f"{source}: expected class names, as a list of texts or a mapping of category ids to names, got "
            f"{repr(names)[:100]}"
        )
    return Categories(Category(int(number), name) for number, name in sorted(pairs, key=lambda pair: int(pair[0])))


def _is_list(names: object) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str | bytes)
