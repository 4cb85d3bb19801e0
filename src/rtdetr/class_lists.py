"""Classes given by the user for a model without class names: `--classes` or, in Python, `categories=`.

coco, voc       the 80 COCO classes, the 20 Pascal VOC classes
FILE            COCO's JSON (its `categories`), a JSON or YAML file with names, or a text file with one name per line
ids             names are unknown; model rows are the category ids of a dataset
ids:FILE        model rows are the category ids of FILE; unused rows are named "id 0", ...
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rtdetr.categories import COCO80, VOC20, Categories, Category
from rtdetr.errors import ConfigError, InputError
from rtdetr.expected import shown_value
from rtdetr.files import with_home
from rtdetr.text_files import read_text
from rtdetr.wording import counted
from rtdetr.yaml_files import YAML_SUFFIXES, not_yaml
from rtdetr.yaml_loaders import TextLoader

GivenClasses = Categories | Sequence[str] | Mapping[int, str] | str | os.PathLike[str]
_KNOWN = {"coco": COCO80, "voc": VOC20}
_IDS = "ids"


class ClassList(NamedTuple):
    """Classes, and how they relate to the rows of a model's class head.

    categories: the classes; None: the names are unknown, and rows are ids.
    by_id: rows are category ids; otherwise, rows are the classes in order if the counts agree.
    source: where the classes come from, for messages.
    """

    categories: Categories | None
    by_id: bool
    source: str

    def for_rows(self, count: int | None) -> Categories:
        """Return one class per row of a model.

        Args:
            count: number of rows; None: unknown.

        Raises:
            ConfigError: the classes do not fit that number of rows.
        """
        given = self.categories
        if given is None:
            if count is None:
                raise ConfigError(f"{_IDS} needs a file that shows its number of classes. Give {_IDS}:FILE instead")
            return Categories.of_ids(count)
        last = max(given.ids, default=-1)
        if self.by_id or (count not in (None, len(given)) and count == last + 1):
            try:
                return given.by_id(count)
            except InputError as error:
                raise ConfigError(f"{self.source}: {error}") from None
        if count not in (None, len(given)):
            raise ConfigError(
                f"{self.source} has {counted(len(given), 'class')} with ids up to {last}, but the model has "
                f"{counted(count or 0, 'row')}; expected as many classes as rows, or one row per id from 0 on. "
                f"Give the classes that the model was trained on; with {_IDS}:FILE, rows are category ids"
            )
        return given

    def naming(self, known: Categories | None, count: int | None, *, model: object) -> Categories:
        """Return the classes of a model. Classes that the model already has are kept unless they are placeholders.

        Args:
            known: classes of the model, if any.
            count: number of its rows; None: unknown.
            model: its file, for messages.

        Raises:
            ConfigError: the model has other class names, or as for `for_rows`.
        """
        if known is None or known in (Categories.numbered(len(known)), Categories.of_ids(len(known))):
            return self.for_rows(count)
        if self.categories != known:
            raise ConfigError(
                f"{model} already names its {counted(len(known), 'class')}, with other names. Omit categories "
                "(--classes)"
            )
        return known


def class_list(given: GivenClasses) -> ClassList:
    """Return the classes that the user gave, in any of the accepted forms.

    Raises:
        ConfigError: the file does not exist or has no classes, or the value is not a list of names.
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
        if suffix in YAML_SUFFIXES:
            return _of_document(yaml.load(text, Loader=TextLoader), path)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        problem = not_yaml(error) if isinstance(error, yaml.YAMLError) else f": not valid JSON: {error}"
        raise ConfigError(f"{path}{' '.join(problem.split())[:200]}") from None
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _of_names(lines, str(path))


def _of_document(content: Any, path: Path) -> Categories:
    """Read the classes of a JSON or YAML file: COCO's `categories`, `names` of YOLO's data.yaml, or just names."""
    if isinstance(content, Mapping) and "categories" in content:
        rows = content["categories"]
        try:
            return Categories.from_json(rows if isinstance(rows, list) else [rows])
        except InputError as error:
            raise ConfigError(f"{path}: categories: {error}") from None
    return _of_names(content.get("names", content) if isinstance(content, Mapping) else content, str(path))


def _of_names(names: Any, source: str) -> Categories:
    """Read classes from a list of names, with ids 0, 1, 2, ..., or from a mapping of ids to names."""
    pairs = list(names.items()) if isinstance(names, Mapping) else list(enumerate(names)) if _is_list(names) else []
    good = all(str(number).isdecimal() and isinstance(name, str) and name.strip() for number, name in pairs)
    if not pairs or not good:
        raise ConfigError(
            f"{source}: expected class names as a list of texts, or a mapping of category ids to names, got "
            f"{shown_value(names)}"
        )
    return Categories(Category(int(number), name) for number, name in sorted(pairs, key=lambda pair: int(pair[0])))


def _is_list(names: object) -> bool:
    return isinstance(names, Sequence) and not isinstance(names, str | bytes)
