"""Fingerprints of the data of a run, to detect changed classes or annotations when the run is resumed.

A checkpoint contains the class list (`Job.metadata`) and, under "data", a fingerprint of the training and validation
data: two hashes per image (of its file name, and of its size and objects), and one hash per class (of its objects in
the training data), which identifies a renamed class. Image files are not read.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.training.class_rows import checkpoint_rows_are_ids
from rtdetr.weights.official import read_own, store_categories
from rtdetr.wording import are, counted, have, listed

_PER_PIXEL = 1000  # coordinates are compared to 1/1000 pixel
_MAX_NAMES = 5
_CLASSES = "classes"
TEACHER = "teacher"
Datasets = dict[str, DetectionDataset]


def fingerprints(datasets: Datasets) -> dict[str, Tensor]:
    """Return the `fingerprint` of each dataset and, as "classes", the `class_fingerprint` of "train"."""
    parts = {part: fingerprint(dataset) for part, dataset in datasets.items()}
    return {**parts, _CLASSES: class_fingerprint(datasets["train"])}


def fingerprint(dataset: DetectionDataset) -> Tensor:
    """Return two hashes per image, int64 (images, 2): of its file name, and of its size, boxes, labels and crowd flags.

    They do not depend on the order of the objects in an image.
    """
    columns = dataset.annotations
    objects = np.column_stack([columns.labels, _objects(dataset)])
    in_order = np.lexsort((*objects.T[::-1], _images(dataset)))
    objects, starts, sizes_wh = objects[in_order], columns.starts.tolist(), columns.sizes_wh
    rows = [
        (_hash_of(name.encode(errors="surrogatepass")), _hash_of(size.tobytes() + objects[start:end].tobytes()))
        for name, size, start, end in zip(columns.file_names.tolist(), sizes_wh, starts, starts[1:], strict=False)
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def class_fingerprint(dataset: DetectionDataset) -> Tensor:
    """Return a hash per class, int64 (classes,): of the images, boxes and crowd flags of its objects, in any order."""
    columns = dataset.annotations
    files = [_hash_of(name.encode(errors="surrogatepass")) for name in columns.file_names.tolist()]
    names = np.array(files, dtype=np.int64)[_images(dataset)]
    rows = np.column_stack([columns.labels, names, _objects(dataset)])
    rows = rows[np.lexsort(rows.T[::-1])]
    starts = np.searchsorted(rows[:, 0], np.arange(len(dataset.categories) + 1))
    numbers = [_hash_of(rows[start:end, 1:].tobytes()) for start, end in itertools.pairwise(starts)]
    return torch.tensor(numbers, dtype=torch.int64)


def _objects(dataset: DetectionDataset) -> np.ndarray:
    """Crowd flag and box of each object, int64 (n, 5)."""
    columns = dataset.annotations
    boxes = np.round(columns.boxes_xywh * _PER_PIXEL).astype(np.int64)
    return np.column_stack([columns.iscrowd.astype(np.int64), boxes])


def _images(dataset: DetectionDataset) -> np.ndarray:
    """The index of each object's image, int64 (n,)."""
    counts = np.diff(dataset.annotations.starts)
    return np.repeat(np.arange(len(counts)), counts)


def with_saved_labels(
    saved: Mapping[str, Any], datasets: Datasets, *, say: Callable[[str], None], labels_are_ids: bool = False
) -> Datasets:
    """Give the datasets of a resumed run the labels that the run used, matching classes by name.

    Args:
        saved: content of the checkpoint.
        datasets: "train" and optionally "val", all with the classes of "train".
        say: called with each message about a difference.
        labels_are_ids: the class rows of a checkpoint without class names are category ids.

    Raises:
        ConfigError: classes were added or removed.
    """
    rows = saved.get("rtdetr", {}).get("categories")
    own = datasets["train"].categories.names
    if rows is None and checkpoint_rows_are_ids(saved, datasets["train"].categories, stated=labels_are_ids):
        return datasets  # classes get their rows by id
    if rows is None:
        say("resume: the checkpoint has no class names; assuming the classes of the dataset, in their order")
        return datasets
    names = Categories.from_json(rows).names
    renamed = {} if sorted(own) == sorted(names) else _renamed(saved, names, datasets["train"])
    if renamed:
        pairs = ", ".join(f"{old!r} is now {name!r}" for old, name in renamed.items())
        say(f"resume: {counted(len(renamed), 'class')} with the same objects {have(renamed)} been renamed: {pairs}")
    names = [renamed.get(name, name) for name in names]
    moved = [name for name, other in zip(names, own, strict=True) if name != other]
    if not moved:
        return datasets
    say(
        f"resume: the dataset lists {len(moved)} of {counted(len(names), 'class')} in a different order than the run: "
        f"{listed(moved, shown=repr)}; classes are matched by name and keep the labels of the run"
    )
    return _relabeled(datasets, names)


def report_changes(
    saved: Mapping[str, Any], now: Mapping[str, Tensor], *, names: Sequence[str], say: Callable[[str], None]
) -> None:
    """Report how many images and annotations have changed since the checkpoint, and classes that swapped objects.

    Args:
        saved: content of the checkpoint.
        now: `fingerprints` of the data, with the labels of the run, and as "teacher" that of a teacher.
        names: class names by label.
        say: called with each message.
    """
    data = saved.get("data")
    if data is None:
        say("resume: the checkpoint has no fingerprint of its data, so changes of the data cannot be detected")
        return
    if _CLASSES in data:
        _report_swaps(data[_CLASSES].tolist(), now[_CLASSES].tolist(), names, say=say)
    for part, rows in now.items():
        if part == _CLASSES or part not in data or torch.equal(data[part], rows):
            continue
        if part == TEACHER:
            say("resume: the weights of the teacher have changed. Continuing with the new ones")
            continue
        before, after = (Counter(map(tuple, one.tolist())) for one in (data[part], rows))
        known, present = ({name for name, _ in one} for one in (before, after))
        new = sum(count for (name, _), count in (after - before).items() if name not in known)
        changed = sum(count for (name, _), count in (after - before).items() if name in known)
        gone = sum(count for (name, _), count in (before - after).items() if name not in present)
        say(
            f"resume: the {part} data has changed: {changed} of {counted(len(rows), 'image')} {have(changed)} other "
            f"boxes, classes or sizes, {new} {are(new)} new, {gone} {are(gone)} missing. Continuing with the new data"
            if new or changed or gone
            else f"resume: the images of the {part} data are in a different order than in the run"
        )


def update_classes(
    files: Sequence[Path], saved: Mapping[str, Any], categories: Categories, *, say: Callable[[str], None]
) -> None:
    """Update the class names and category ids in the checkpoints of a resumed run to those of the data.

    Args:
        files: best.pth and last.pth of the run, which may be missing.
        saved: content of the checkpoint that is resumed.
        categories: current classes of the run.
        say: called with each message.
    """
    rows, wanted = saved.get("rtdetr", {}).get("categories"), categories.to_json()
    updated = []
    for file in files if rows not in (None, wanted) else ():
        if not file.exists():
            continue
        try:
            found = read_own(file)["rtdetr"].get("categories")
            if found == rows:
                store_categories(file, categories)
                updated.append(file.name)
            elif found != wanted:
                say(f"resume: did not update the classes of {file}, which are neither those of the run nor of the data")
        except WeightsError as error:
            say(f"resume: could not update the class names and category ids of {file}: {error}")
    if updated:
        names = " and ".join(updated)
        say(f"resume: updated the class names and category ids in {names} to those of the data; weights are unchanged")


def _renamed(saved: Mapping[str, Any], names: list[str], data: DetectionDataset) -> dict[str, str]:
    """The new name of each renamed class, identified by its objects.

    Raises:
        ConfigError: classes were added, removed or replaced, or renamed classes have the same objects.
    """
    own = data.categories.names
    new, gone = [name for name in own if name not in names], [name for name in names if name not in own]
    known, alike = saved.get("data", {}).get(_CLASSES), False
    if known is not None and len(new) == len(gone):
        before = dict(zip(names, known.tolist(), strict=True))
        now = dict(zip(own, class_fingerprint(data).tolist(), strict=True))
        same = {name: [other for other in new if now[other] == before[name]] for name in gone}
        alike = any(len(found) > 1 for found in same.values())
        pairs = {name: found[0] for name, found in same.items() if len(found) == 1}
        if len(set(pairs.values())) == len(gone):
            return pairs
    found = ((new, "only in the data:"), (gone, "only in the run:"))
    differences = "; ".join(f"{text} {listed(those, shown=repr)}" for those, text in found if those)
    why = " Renamed classes cannot be matched, because several have no objects or the same objects." if alike else ""
    raise ConfigError(
        f"resume: the classes of {data.annotations_file} differ from those of the run: {differences}.{why} Resume with "
        "the classes of the run, or start a new run from its weights, which are matched by class name: --weights RUN "
        "--output OTHER"
    )


def _report_swaps(before: list[int], now: list[int], names: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Report classes that have the objects of another one: most likely, their names were swapped in the data."""
    moved = [n for n in now if before.count(n) == now.count(n) == 1 and before.index(n) != now.index(n)]
    pairs = [f"{names[now.index(n)]!r} now has those of {names[before.index(n)]!r}" for n in moved]
    if pairs:
        say(
            f"resume: classes have swapped objects: {'; '.join(pairs[:_MAX_NAMES])}. Classes are matched by name, so "
            "the model has to relearn them; if the names were swapped by mistake, swap them back"
        )


def _relabeled(datasets: Datasets, names: list[str]) -> Datasets:
    ids = {category.name: category.id for category in datasets["train"].categories}
    categories = Categories(Category(ids[name], name) for name in names)
    return {part: dataset.with_categories(categories) for part, dataset in datasets.items()}


def _hash_of(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)
