"""Classes of a Hugging Face folder: names from `id2label`, ids from our description of the weights, if any.

A name belongs to a label, the index of a network output, and is set by `id2label`. A category id belongs to a name: if
a name has another label than in the description, its id moves with it.
"""

import logging
from collections.abc import Sequence
from typing import Any

from rtdetr.categories import COCO80, COCO_SYNONYMS, Categories, Category
from rtdetr.errors import WeightsError
from rtdetr.weights.huggingface_fields import CONFIG, short
from rtdetr.wording import counted

_log = logging.getLogger(__name__)


def read_categories(
    id2label: dict[Any, Any] | None, num_classes: int, *, known: Categories | None = None
) -> Categories | None:
    """Return the classes of a repository, or None if they are only numbered; COCO classes get COCO's ids.

    Args:
        id2label: names by label; labels are texts, as in JSON.
        num_classes: number of classes of the weights.
        known: classes in our description of the weights, if any.

    Raises:
        WeightsError: the labels are not 0, 1, ..., or class names are not unique.
    """
    if id2label is None:
        return known
    names = _names(id2label, num_classes)
    if names == (known or Categories.numbered(num_classes)).names:
        return known
    check_names(names, where="id2label", usual=known.names if known else ())
    if all(name == f"LABEL_{label}" for label, name in enumerate(names)):
        return None
    if known is not None:
        return _with_known_ids(names, known)
    if [COCO_SYNONYMS.get(name, name) for name in names] == COCO80.names:
        return COCO80
    return Categories(Category(label, name) for label, name in enumerate(names))


def check_names(names: Sequence[str], *, where: str, usual: Sequence[str] = ()) -> None:
    """Reject duplicate class names, and warn about whitespace that is easily overlooked.

    Raises:
        WeightsError: two classes have the same name; the message begins with the field, `where`.
    """
    for label, name in enumerate(names):
        if (first := names.index(name)) != label:
            raise WeightsError(
                f"{CONFIG}: {where} has the name {short(name)} for two classes, {first} and {label}; class names must "
                "be unique. Rename one of them"
            )
    odd = [name for name in names if name not in usual and (name != name.strip() or not name.isprintable())]
    if odd:
        _log.warning(
            "%s: %s has names with line breaks or surrounding spaces: %s. They are used unchanged and differ from "
            "names without them",
            *(CONFIG, where, ", ".join(map(short, odd[:5]))),
        )


def warn_label2id(label2id: dict[str, Any] | None, id2label: dict[str, Any] | None) -> None:
    """Warn if `label2id` is not the inverse of `id2label`, which takes precedence."""
    if not label2id or label2id == {name: int(label) for label, name in (id2label or {}).items()}:
        return
    reason = "contradicts id2label, which takes precedence" if id2label else "has no effect without id2label"
    _log.warning("%s: label2id %s", CONFIG, reason)


def _names(id2label: dict[Any, Any], num_classes: int) -> list[str]:
    """Return the names in the order of their labels."""
    if len(id2label) != num_classes:
        raise WeightsError(
            f"{CONFIG}: id2label names {counted(len(id2label), 'class')}, but the weights have {num_classes}"
        )
    labels = [str(label) for label in range(num_classes)]
    for key, name in id2label.items():
        if key not in labels:
            raise WeightsError(
                f"{CONFIG}: id2label has the label {short(key)}, expected the labels of the weights, '0' to "
                f"{labels[-1]!r}. Number the classes from 0, without leading zeros"
            )
        if not isinstance(name, str) or not name.strip():
            raise WeightsError(
                f"{CONFIG}: id2label has the name {short(name)} for label {key}, expected a text that is not empty"
            )
    return [id2label[label] for label in labels]


def _with_known_ids(names: list[str], known: Categories) -> Categories:
    """Give each name its id in our description; a new name gets the id of its label."""
    id_of = dict(zip(known.names, known.ids, strict=True))
    free = set(known.ids) - {id_of[name] for name in names if name in id_of}
    ids = [id_of.get(name, own if own in free else None) for name, own in zip(names, known.ids, strict=True)]
    free -= set(ids)
    if len(free) > 1:
        without = [name for name, number in zip(names, ids, strict=True) if number is None]
        raise WeightsError(
            f"{CONFIG}: id2label has the new names {', '.join(map(short, without))} at labels whose previous names "
            "have moved to other labels, so their category ids are unknown. Rename classes first, then reorder them"
        )
    ids = [free.pop() if number is None else number for number in ids]
    result = Categories(map(Category, ids, names))
    if ids != known.ids:
        moved = [category for category, former in zip(result, known.ids, strict=True) if category.id != former]
        _log.warning(
            "%s: id2label has classes at other labels than the description of the weights. Category ids move with the "
            "names: %s",
            *(CONFIG, ", ".join(f"{category.name!r} has {category.id}" for category in moved[:5])),
        )
    return result
