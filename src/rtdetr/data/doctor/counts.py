"""Count the images, objects and classes of each split."""

from typing import NamedTuple

import numpy as np

from rtdetr.data.doctor.checks import objects_by_class
from rtdetr.data.doctor.survey import Survey


class SplitRow(NamedTuple):
    """Counts of a split: images, images without boxes, and boxes without crowd regions."""

    name: str
    source: str
    format: str
    images: int
    empty: int
    objects: int
    classes: int


class ClassRow(NamedTuple):
    """Counts of a class: per split, the number of objects and of images with at least one."""

    name: str
    objects: list[int]
    images: list[int]


def count_splits(survey: Survey) -> list[SplitRow]:
    """Return the counts of each split."""
    rows = []
    for part in survey.parts:
        empty = len(part.images) - len(np.unique(part.box_images))
        objects = int((~part.iscrowd).sum())
        counts = len(part.images), empty, objects, len(part.categories)
        rows.append(SplitRow(part.name, str(part.source), part.format, *counts))
    return rows


def count_classes(survey: Survey) -> list[ClassRow]:
    """Return the counts of each class, in the order of the class lists."""
    names = dict.fromkeys(category.name for part in survey.parts for category in part.categories)
    objects = [objects_by_class(survey, part) for part in range(len(survey.parts))]
    images = [_images_by_class(survey, part) for part in range(len(survey.parts))]
    return [
        ClassRow(name, [count.get(name, 0) for count in objects], [count.get(name, 0) for count in images])
        for name in names
    ]


def _images_by_class(survey: Survey, part: int) -> dict[str, int]:
    record = survey.parts[part]
    used = (record.labels >= 0) & ~record.iscrowd
    pairs = np.unique(record.labels[used] * max(len(record.images), 1) + record.box_images[used])
    counts = np.bincount(pairs // max(len(record.images), 1), minlength=len(record.categories))
    return {category.name: int(count) for category, count in zip(record.categories, counts, strict=True)}
