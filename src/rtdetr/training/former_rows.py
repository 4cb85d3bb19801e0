"""Checkpoints whose class heads have a row for each category id, for runs that have one for each class of the data.

The published code writes them where `remap_mscoco_category` is False; `rtdetr.weights.rows` says more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtdetr.categories import Categories
from rtdetr.errors import WeightsError
from rtdetr.weights.rows import select_rows, selected
from rtdetr.weights.transfer import CLASS_HEADS
from rtdetr.wording import counted

_HEAD = "decoder.dec_score_head.0.weight"


def rows_are_ids(num_rows: int, categories: Categories, *, stated: bool) -> bool:
    """Whether the rows of a checkpoint that does not name its classes are category ids.

    Args:
        num_rows: of its class heads.
        categories: classes of the data.
        stated: the settings of the run say so.
    """
    return stated or (num_rows != len(categories) and num_rows == max(categories.ids, default=-1) + 1)


def are_ids(former: Mapping[str, Any], categories: Categories, *, stated: bool) -> bool:
    """Whether the rows of a checkpoint to resume are category ids; one that names its classes has them in its order."""
    head = former.get("model", {}).get(_HEAD)
    unnamed = former.get("rtdetr", {}).get("categories") is None
    return unnamed and head is not None and rows_are_ids(len(head), categories, stated=stated)


def with_rows_of_classes(
    former: Mapping[str, Any],
    categories: Categories,
    *,
    trained: Sequence[Sequence[str]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return a checkpoint with one row for each class of the data instead of one for each category id.

    Args:
        former: content of the checkpoint, whose rows are category ids.
        categories: classes of the data, by label.
        trained: names of the parameters in each group of the run's optimizer.
        say: is told.

    Raises:
        WeightsError: a class has no row.
    """
    count, ids = len(former["model"][_HEAD]), categories.ids
    absent = [category for category in categories if not 0 <= category.id < count]
    if absent:
        raise WeightsError(
            f"resume: the rows of the checkpoint's class heads are the category ids 0 to {count - 1}, so "
            f"{absent[0].name!r} with the id {absent[0].id} has none: the published code trained it as background. "
            "Start a new run from the weights, which gives it a fresh row: --weights FILE --output OTHER"
        )
    if ids == list(range(count)):
        return dict(former)
    say(
        f"resume: the rows of the checkpoint's class heads are category ids; the run goes on with the "
        f"{len(ids)} of {counted(count, 'row')} that the data has classes for"
    )
    content = {**former, "model": select_rows(former["model"], ids, count=count)}
    if "ema" in former:
        content["ema"] = {**former["ema"], "module": select_rows(former["ema"]["module"], ids, count=count)}
    heads = {
        index for index, name in enumerate(name for group in trained for name in group) if name.startswith(CLASS_HEADS)
    }
    moments = {
        index: {name: selected(value, ids, count=count) for name, value in values.items()} if index in heads else values
        for index, values in former["optimizer"]["state"].items()
    }
    return {**content, "optimizer": {**former["optimizer"], "state": moments}}
