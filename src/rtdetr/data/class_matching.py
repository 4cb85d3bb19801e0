"""Convert the labels of a dataset to those of a model by matching classes by name or category id."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from rtdetr.categories import Categories, Category
from rtdetr.data.annotations import Annotations
from rtdetr.errors import DatasetError, InputError
from rtdetr.wording import are, counted, listed, occur

_log = logging.getLogger(__name__)


def match_classes(annotations: Annotations, categories: Categories, *, file: Path) -> Annotations:
    """Return annotations with the labels of another class list, as described in `DetectionDataset.with_categories`.

    Args:
        annotations: the columns of a dataset.
        categories: the class list.
        file: the annotation file, for messages.

    Raises:
        DatasetError: as for `DetectionDataset.with_categories`.
    """
    own = annotations.categories
    if _are_ids(categories, own):
        categories = _named_by_id(own, len(categories), file)
    names = categories.names
    if categories == Categories.numbered(len(own)) and set(names) != set(own.names):
        return annotations
    used = {own.names[label] for label in np.unique(annotations.labels)}
    unused_names = sorted(set(own.names) - set(names) - used)
    if used - set(names) or len(unused_names) == len(own) > 0:
        _refuse(annotations, names, file)
    if dropped := [name for name in unused_names if name not in annotations.implied]:
        _log.warning(
            "%s lists %s without objects that the model does not have;%s",
            file,
            counted(len(dropped), "class"),
            _listed("omitted:", dropped),
        )
    label_of_name = {name: label for label, name in enumerate(names)}
    unused = -1  # label that no box has
    new_labels = np.array([label_of_name.get(name, unused) for name in own.names], dtype=np.int64)
    ids = assign_ids(categories, {category.name: category.id for category in own})
    return annotations._replace(categories=ids, labels=new_labels[annotations.labels])


def assign_ids(categories: Iterable[Category], id_of_name: dict[str, int]) -> Categories:
    """Return the classes with the ids of `id_of_name`; others keep their id or get the next free one."""
    taken = set(id_of_name.values())
    chosen = []
    for category in categories:
        number = id_of_name.get(category.name)
        if number is None:
            number = category.id if category.id not in taken else max(taken) + 1
            taken.add(number)
        chosen.append(Category(number, category.name))
    return Categories(chosen)


def _are_ids(categories: Categories, own: Categories) -> bool:
    """Return whether the classes are those of a model without names, and its outputs are the dataset's category ids."""
    count = len(categories)
    if categories == Categories.of_ids(count):
        return True
    is_one_row_per_id = count != len(own) and count == max(own.ids, default=-1) + 1
    return is_one_row_per_id and categories == Categories.numbered(count)


def _named_by_id(own: Categories, count: int, file: Path) -> Categories:
    try:
        named = own.by_id(count)
    except InputError as error:
        raise DatasetError(
            f"{file}: {error}. The outputs of the model are category ids, so it cannot detect this class: published "
            "code trains such objects as background. Evaluate the model on the data it was trained on"
        ) from None
    unused = count - len(own)
    _log.info("the model's outputs are category ids of %s; %d %s not used by any class", file, unused, are(unused))
    return named


def _refuse(annotations: Annotations, names: list[str], file: Path) -> NoReturn:
    """Raise an error that names the differences between the classes of a model and those of the dataset."""
    own, implied = annotations.categories.names, annotations.implied
    found = sorted(set(own) - set(implied))
    of_voc, remedy = "", ""
    if implied:
        of_voc = f", of which {len(found)} {occur(found)}"
        remedy = "; a classes.txt in the folder of the dataset replaces the class list of Pascal VOC"
    lists = (
        _listed("only the model has", sorted(set(names) - set(own))),
        _listed("only the file has", sorted(set(found) - set(names))),
    )
    problem = f"expected the {counted(len(names), 'class')} of the model, got {len(own)}"
    if len(own) == len(names):
        problem = f"its {counted(len(own), 'class')} differ from those of the model"
    raise DatasetError(
        f"{file}: {problem}{of_voc};"
        f"{';'.join(filter(None, lists))}. Use a model trained on these classes, or give the classes the same "
        f"names{remedy}. If the model has no class names, set them with --classes"
    )


def _listed(text: str, names: list[str]) -> str:
    if not names:
        return ""
    return f" {text} {listed(names, shown=repr)}"
