"""What the doctor knows about a data set before judging it: every split as its files have it, defects included.

A reader (`read_coco.py`, `read_yolo.py`, `read_voc.py`) fills a `Part`: images, boxes, classes and a `Defect` for each
entry it could not use. Unlike `rtdetr.data.open_dataset` it refuses nothing but a file that is not of the format at
all. `checks.py` and `box_checks.py` find everything else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNKNOWN = -1  # the label of a box whose class is in no list


class ImageRecord(NamedTuple):
    """An image as the annotations name it."""

    image_id: Any  # as the file has it; mostly an integer
    file_name: str
    path: Path
    size_wh: tuple[int, int] | None  # as stated by the annotations; None where they do not say
    has_label: bool = True  # False: the format has a file for each image, and this one's is missing
    is_label_read: bool = True  # False: there is one, but what it says cannot be read
    is_ambiguous: bool = False  # several files could be meant, and none is taken
    misplaced_label: str = ""  # a label file that lies near such an image; it is not read


class BoxRecord(NamedTuple):
    """A box as the annotations have it."""

    image: int  # position in `Part.images`
    label: int  # position in `Part.categories`, or UNKNOWN
    xywh: tuple[float, float, float, float]  # left, top, width, height; see `Part.relative`
    name: str  # for messages: "annotation 8812", "a.txt line 3"
    area: float | None = None  # of the object, square pixels; None: that of the box
    iscrowd: bool = False


class CategoryRecord(NamedTuple):
    """A class as the annotations name it."""

    category_id: Any
    name: str


class Defect(NamedTuple):
    """An entry that a reader could not use: what kind (`KINDS` in findings.py), where, and what is wrong."""

    kind: str
    file: str
    annotation: str
    detail: str


@dataclass
class Part:
    """One split of a data set.

    Attributes:
        name: to show: the split, the stem of a single file that is named otherwise, or "train-2" of several.
        source: the annotation file, or the folder of annotation files.
        format: "coco", "yolo" or "voc".
        split: "train", "val" or "test"; the stem of the file where that tells nothing and there are several such.
        images_dir: the folder that the file names are relative to.
        relative: the boxes are fractions of the upright image's sides, as YOLO has them, instead of pixels.
        num_listed_images, num_listed_boxes: entries in its files, those included that cannot be used; a cleaned copy
            that has many fewer is refused.
        changes: what a cleaned copy leaves out or changes that no defect names, such as the boxes of an image that is
            left out for its id.
        folders: folders of images that belong to it as a whole.
        is_annotated: whether an image file that no split lists, given as its path, has annotations nevertheless.
    """

    name: str
    source: Path
    format: str
    relative: bool = False
    split: str = field(default="", kw_only=True)
    images_dir: Path = field(default=Path(), kw_only=True)
    num_listed_images: int = field(default=0, kw_only=True)
    num_listed_boxes: int = field(default=0, kw_only=True)
    changes: list[Defect] = field(default_factory=list, kw_only=True)
    folders: list[str] = field(default_factory=list, kw_only=True)
    is_annotated: Callable[[str], bool] = field(default=lambda path: False, kw_only=True)
    categories: list[CategoryRecord] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    boxes: list[BoxRecord] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)

    @cached_property
    def box_images(self) -> np.ndarray:
        """Image of each box, int64 (boxes,)."""
        return np.array([box.image for box in self.boxes], dtype=np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each box, int64 (boxes,)."""
        return np.array([box.label for box in self.boxes], dtype=np.int64)

    @cached_property
    def iscrowd(self) -> np.ndarray:
        """Which boxes are crowd regions, bool (boxes,)."""
        return np.array([box.iscrowd for box in self.boxes], dtype=bool)

    def defect(self, kind: str, *, file: str, annotation: str = "", detail: str) -> None:
        """Note an entry that cannot be used."""
        self.defects.append(Defect(kind, file, annotation, detail))

    def change(self, kind: str, *, file: str, annotation: str) -> None:
        """Note what a cleaned copy leaves out or changes, which no defect names."""
        self.changes.append(Defect(kind, file, annotation, ""))
