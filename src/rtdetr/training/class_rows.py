"""Resume checkpoints of the published code with one class row per category id.

The published code writes them if `remap_mscoco_category` is False (see `rtdetr.weights.rows`). Runs of this library
have one class row per class of the data.
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
    """Whether the class rows of a checkpoint without class names are category ids.

    Args:
        num_rows: number of rows of its class heads.
        categories: classes of the data.
        stated: whether the settings of the run say that they are.
    """
    return stated or (num_rows != len(categories) and num_rows == max(categories.ids, default=-1) + 1)


def checkpoint_rows_are_ids(saved: Mapping[str, Any], categories: Categories, *, stated: bool) -> bool:
    """Whether the class rows of a checkpoint to resume are category ids; never if it stores class names."""
    head = saved.get("model", {}).get(_HEAD)
    unnamed = saved.get("rtdetr", {}).get("categories") is None
    return unnamed and head is not None and rows_are_ids(len(head), categories, stated=stated)


def with_one_row_per_class(
    saved: Mapping[str, Any],
    categories: Categories,
    *,
    trained: Sequence[Sequence[str]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return a checkpoint with one row per class of the data instead of one row per category id.

    Args:
        saved: content of a checkpoint with one row per category id.
        categories: classes of the data, by label.
        trained: names of the parameters in each group of the run's optimizer.
        say: called with each message.

    Raises:
        WeightsError: a class has no row.
    """
    count, ids = len(saved["model"][_HEAD]), categories.ids
    absent = [category for category in categories if not 0 <= category.id < count]
    if absent:
        raise WeightsError(
            f"resume: the class rows of the checkpoint are the category ids 0 to {count - 1}, so {absent[0].name!r} "
            f"(id {absent[0].id}) has no row: the published code trained it as background. Start a new run from the "
            "weights, which adds a new row for it: --weights FILE --output OTHER"
        )
    if ids == list(range(count)):
        return dict(saved)
    say(
        f"resume: the class rows of the checkpoint are category ids; keeping the {len(ids)} of {counted(count, 'row')} "
        f"that have a class in the data"
    )
    content = {**saved, "model": select_rows(saved["model"], ids, count=count)}
    if "ema" in saved:
        content["ema"] = {**saved["ema"], "module": select_rows(saved["ema"]["module"], ids, count=count)}
    heads = {
        index for index, name in enumerate(name for group in trained for name in group) if name.startswith(CLASS_HEADS)
    }
    moments = {
        index: {name: selected(value, ids, count=count) for name, value in values.items()} if index in heads else values
        for index, values in saved["optimizer"]["state"].items()
    }
    return {**content, "optimizer": {**saved["optimizer"], "state": moments}}
