"""Merge several datasets into one: classes of the same name get one label, and every source keeps its ids."""

from collections.abc import Sequence

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import Annotations
from rtdetr.data.class_matching import assign_ids
from rtdetr.data.dataset import DetectionDataset
from rtdetr.errors import DatasetError

_LARGEST_ID = 2**63 - 1


def merge(datasets: Sequence[DetectionDataset]) -> DetectionDataset:
    """Concatenate datasets.

    Classes are those of the first dataset in its order, then the new names of the second, and so on. A class has the
    id of the first dataset with its name, or the next free one if another class already has that. Image ids ascend:
    those of a further dataset stay if all are larger than the previous ones; otherwise a constant is added to all of
    them. `Source.categories` and `Source.id_offset` recover the ids of the files.

    Raises:
        DatasetError: the shifted ids would need more than 64 bits.
    """
    if len(datasets) == 1:
        return datasets[0]
    categories = datasets[0].categories
    for dataset in datasets[1:]:
        categories = _union(categories, dataset.categories)
    parts, sources, next_id, first = [], [], None, 0
    for dataset in (dataset.with_categories(categories) for dataset in datasets):
        part = dataset.annotations
        lowest, highest = int(part.image_ids[0]), int(part.image_ids[-1])
        offset = 0 if next_id is None or lowest >= next_id else next_id - lowest
        if highest + offset > _LARGEST_ID:
            raise DatasetError(f"{dataset.annotations_file}: image ids up to {highest} are too large to merge")
        parts.append(part._replace(image_ids=part.image_ids + offset))
        sources += [
            source._replace(first=source.first + first, id_offset=source.id_offset + offset)
            for source in dataset.sources
        ]
        next_id, first = highest + offset + 1, first + len(part.image_ids)
    found = set().union(*({*dataset.categories.names} - {*dataset.annotations.implied} for dataset in datasets))
    implied = tuple(name for name in categories.names if name not in found)
    return DetectionDataset.of(_joined(categories, parts)._replace(implied=implied), *sources)


def _union(categories: Categories, more: Categories) -> Categories:
    known = {category.name: category.id for category in categories}
    new = [category for category in more if category.name not in known]
    return assign_ids([*categories, *new], known)


def _joined(categories: Categories, parts: Sequence[Annotations]) -> Annotations:
    before = np.cumsum([0, *(len(part.labels) for part in parts)])
    starts = [part.starts[1:] + rows for part, rows in zip(parts, before[:-1], strict=True)]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Annotations(
        categories=categories,
        image_ids=column("image_ids"),
        file_names=column("file_names"),
        sizes_wh=column("sizes_wh"),
        starts=np.concatenate([[0], *starts]),
        boxes_xywh=column("boxes_xywh"),
        labels=column("labels"),
        areas=column("areas"),
        iscrowd=column("iscrowd"),
    )
