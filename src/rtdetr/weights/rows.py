"""Rows of the class heads: assign classes to them, and remove unused ones.

With `remap_mscoco_category: False` the published code trains category ids as labels: N classes with ids 1..N have N + 1
rows with row 0 unused, and COCO has 91 rows.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses, class_list
from rtdetr.errors import ConfigError
from rtdetr.weights.load import LoadedWeights
from rtdetr.weights.names import State
from rtdetr.weights.transfer import CLASS_HEADS
from rtdetr.wording import counted


def name_rows(weights: LoadedWeights, classes: GivenClasses) -> LoadedWeights:
    """Assign classes to the rows of a checkpoint without class names.

    Args:
        weights: the checkpoint.
        classes: as for `--classes`; see `rtdetr.class_lists`.

    Raises:
        ConfigError: the checkpoint has other class names, or the number of classes does not fit.
    """
    given = class_list(classes)
    named = given.naming(weights.categories, weights.config.num_classes, model=weights.path)
    return weights._replace(categories=named)


def drop_unused_rows(weights: LoadedWeights) -> LoadedWeights:
    """Remove the unused rows; the others keep their names and category ids.

    Raises:
        ConfigError: it is unknown which rows are used.
    """
    count, categories = weights.config.num_classes, weights.categories
    unnamed = Categories.of_ids(count)
    used = [label for label, one in enumerate(categories or unnamed) if one != unnamed[label]]
    if not used:
        raise ConfigError(
            f"{weights.path}: it is unknown which of its {counted(count, 'row')} are unused. Give the classes of its "
            "training data: --classes ANNOTATIONS.json (Python: categories)"
        )
    assert categories is not None
    thresholds = weights.thresholds
    return weights._replace(
        state=select_rows(weights.state, used, count=count),
        config=weights.config.replace(num_classes=len(used)),
        categories=Categories(categories[label] for label in used),
        thresholds=None if thresholds is None else tuple(thresholds[label] for label in used),
    )


def select_rows(state: Mapping[str, Tensor], rows: Sequence[int], *, count: int) -> State:
    """Return the entries with selected rows of the class heads and the denoising embedding, in the given order.

    Args:
        state: entries under official names.
        rows: rows to keep.
        count: number of rows of the checkpoint.
    """
    return {
        key: selected(value, rows, count=count) if key.startswith(CLASS_HEADS) else value
        for key, value in state.items()
    }


def selected(value: Tensor, rows: Sequence[int], *, count: int) -> Tensor:
    """Select rows of an entry of a class head or the denoising embedding, or of a moment of either."""
    if value.ndim == 0:  # a step counter
        return value
    if len(value) == count + 1:  # the embedding: its last row is for "no class"
        rows = [*rows, count]
    elif len(value) != count:  # class-agnostic
        return value
    return value[torch.tensor(rows, dtype=torch.int64)]
