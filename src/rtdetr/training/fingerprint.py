"""What data a run had, so that a resumed run notices when its classes or annotations are others.

The checkpoint has the class list (`Job.metadata`) and, under "data", a fingerprint of the training and of the
validation data: two hashes per image, of its file name and of its size and objects. Image files are not read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset
from rtdetr.errors import ConfigError

_PER_PIXEL = 1000  # coordinates are compared in thousandths of a pixel
_MOST_NAMES = 5
Datasets = dict[str, DetectionDataset]


def fingerprint(dataset: DetectionDataset) -> Tensor:
    """Two numbers per image, int64 (images, 2): of its file name; of its size, boxes, labels and crowd flags.

    The order of the objects in an image does not count.
    """
    columns = dataset.annotations
    counts = np.diff(columns.starts)
    boxes = np.round(columns.boxes_xywh * _PER_PIXEL).astype(np.int64)
    objects = np.column_stack([columns.labels, columns.iscrowd, boxes])
    in_order = np.lexsort((*objects.T[::-1], np.repeat(np.arange(len(counts)), counts)))
    objects, starts, sizes_wh = objects[in_order], columns.starts.tolist(), columns.sizes_wh
    rows = [
        (_number(name.encode(errors="surrogatepass")), _number(size.tobytes() + objects[start:end].tobytes()))
        for name, size, start, end in zip(columns.file_names.tolist(), sizes_wh, starts, starts[1:], strict=False)
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def with_former_labels(former: Mapping[str, Any], datasets: Datasets, *, say: Callable[[str], None]) -> Datasets:
    """Give the datasets of a resumed run the labels that its classes had, by name.

    Args:
        former: content of the checkpoint.
        datasets: "train" and maybe "val", all with the classes of "train".
        say: is told what is different.

    Raises:
        ConfigError: there are classes that the run had not, or the other way round.
    """
    rows = former.get("rtdetr", {}).get("categories")
    own = datasets["train"].categories.names
    if rows is None:
        say("resume: the checkpoint does not name its classes; those of the data are taken in their order")
        return datasets
    names = Categories.from_json(rows).names
    if own == names:
        return datasets
    if sorted(own) != sorted(names):
        return _renamed(former, names, datasets, say=say)
    moved = [name for name, other in zip(own, names, strict=True) if name != other]
    say(
        f"resume: {len(moved)} of {len(names)} classes have another number in the data than in the run, such as "
        f"{moved[0]!r}; they are matched by name and keep the run's numbers"
    )
    return _relabeled(datasets, names)


def tell_changes(former: Mapping[str, Any], now: Mapping[str, Tensor], *, say: Callable[[str], None]) -> None:
    """Say how many images and annotations are not those that the run had.

    Args:
        former: content of the checkpoint.
        now: fingerprints of the same parts, made with the run's labels.
        say: is told.
    """
    data = former.get("data")
    if data is None:
        say("resume: the checkpoint has no fingerprint of its data, so changes of the data since then are not noticed")
        return
    for part, rows in now.items():
        if part not in data or torch.equal(data[part], rows):
            continue
        before, after = (Counter(map(tuple, one.tolist())) for one in (data[part], rows))
        known, present = ({name for name, _ in one} for one in (before, after))
        new = sum(count for (name, _), count in (after - before).items() if name not in known)
        changed = sum(count for (name, _), count in (after - before).items() if name in known)
        gone = sum(count for (name, _), count in (before - after).items() if name not in present)
        say(
            f"resume: the {part} data is not what the run had: {changed} of {len(rows)} images have other boxes, "
            f"classes or sizes, {new} are new, {gone} are gone. The run continues with the data as it is now"
            if new or changed or gone
            else f"resume: the images of the {part} data are in another order than in the run"
        )


def _renamed(
    former: Mapping[str, Any], names: list[str], datasets: Datasets, *, say: Callable[[str], None]
) -> Datasets:
    """Accept other names of classes if every object is where it was, under the same number."""
    own = datasets["train"].categories.names
    new, gone = [name for name in own if name not in names], [name for name in names if name not in own]
    if len(new) == len(gone) and "train" in former.get("data", {}):
        fresh = iter(new)
        candidate = _relabeled(datasets, [name if name in own else next(fresh) for name in names])
        if torch.equal(fingerprint(candidate["train"]), former["data"]["train"]):
            pairs = ", ".join(f"{old!r} is now {name!r}" for old, name in zip(gone, new, strict=True))
            say(f"resume: {len(new)} classes have another name and the same objects: {pairs}")
            return candidate
    found = ((new, "only the data has"), (gone, "only the run has"))
    differences = "; ".join(f"{text} {_some(listed)}" for listed, text in found if listed)
    raise ConfigError(
        f"resume: {datasets['train'].annotations_file} has other classes than the run: {differences}. Resume with the "
        "run's classes, or start a new run from its weights, which go by class name: --weights RUN --output OTHER"
    )


def _relabeled(datasets: Datasets, names: list[str]) -> Datasets:
    ids = {category.name: category.id for category in datasets["train"].categories}
    categories = Categories(Category(ids[name], name) for name in names)
    return {part: dataset.with_categories(categories) for part, dataset in datasets.items()}


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more
