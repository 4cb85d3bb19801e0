"""One split of a dataset as read from its files, including their errors.

A reader stores valid entries as columns and notes a `Problem` for everything else. Training converts the result with
`to_annotations`, which raises the first problem that is an error. The data doctor uses it unchanged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.categories import Categories, Category
from rtdetr.data.annotations import Annotations, Objects, OnBad, arrange
from rtdetr.data.box_forms import CENTER, XYWH
from rtdetr.data.image_files import PLACEHOLDER_WH, Sizes, sizes_of
from rtdetr.data.image_paths import with_sizes_of_files
from rtdetr.errors import DatasetError

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
UNKNOWN = -1  # label of a box with an unlisted class


class ImageRecord(NamedTuple):
    """An image in the annotations."""

    image_id: Any  # as in the file; usually an integer
    file_name: str  # relative to `Part.images_dir`, or an absolute path
    size_wh: tuple[int, int] | None = None  # as stated in the annotations; None if not stated
    has_label: bool = True  # False: the format has one label file per image, and this one is missing
    is_label_read: bool = True  # False: the label file exists but cannot be read
    misplaced_label: str = ""  # path of a matching label file in an unusual place; it is not read
    path: Path = Path()  # set by the doctor
    is_ambiguous: bool = False  # set by the doctor: several files match, and none is used


class BoxRecord(NamedTuple):
    """A box in the annotations, for readers that collect one box at a time; see `Part.set_boxes`."""

    image: int  # position in `Part.images`
    label: int  # position in `Part.categories`, or UNKNOWN
    xywh: tuple[float, float, float, float]  # left, top, width, height; see `Part.form`
    name: str  # for the doctor: "annotation 8812", "a.txt line 3"
    where: str  # for messages of training: file and position
    area: float = np.nan  # of the object, square pixels; NaN: area of the box
    iscrowd: bool = False


class Problem(NamedTuple):
    """A problem with an entry.

    kind: a row of `KINDS` in doctor/findings.py, which has its severity.
    file, annotation, detail: location and description, for the doctor.
    error: message that training raises; empty if it can continue.
    image: position of the image it belongs to, if any.
    is_shown: False if the doctor shows it as a finding of another split, or of the whole split.
    """

    kind: str
    file: str
    annotation: str
    detail: str
    error: str = ""
    image: int | None = None
    is_shown: bool = True


@dataclass
class Part:
    """One split of a dataset.

    Attributes:
        format: name of the format.
        source: annotation file or folder of annotation files.
        images_dir: folder that the file names are relative to.
        form: meaning of the box numbers in the files, see `box_forms.py`. With `CENTER` the columns are left, top,
            width and height as fractions of the upright image's sides, otherwise pixels.
        are_files: the images were found as files, so they need not be located.
        categories: classes by label; the ids are those of the file.
        box_images, labels: image and class of each box, int64 (boxes,).
        boxes_xywh, areas, iscrowd: float64 (boxes, 4), float64 (boxes,), bool (boxes,).
        box_name, box_where: return the name of a box, for the doctor and for messages of training.
        num_listed_images, num_listed_boxes: entries in its files, including invalid ones; a cleaned copy with many
            fewer is refused.
        changes: what a cleaned copy omits or changes without a corresponding problem.
        folders: image folders that belong to the split entirely.
        is_annotated: returns whether an image file that no split lists, given by its path, has annotations.
        notes: warnings of training, one line each.
        implied, inputs_known: as in `Annotations`.
        name: set by the doctor: the split, the stem of a file with another name, or "train-2" if there are several.
        split: set by the doctor: "train", "val" or "test"; the stem of the file if it has none of these names.
    """

    format: str
    source: Path
    images_dir: Path
    form: str = XYWH
    are_files: bool = False
    categories: list[Category] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    box_images: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    boxes_xywh: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    areas: np.ndarray = field(default_factory=lambda: np.empty(0))
    iscrowd: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    box_name: Callable[[int], str] = str
    box_where: Callable[[int], str] = str
    problems: list[Problem] = field(default_factory=list)
    changes: list[Problem] = field(default_factory=list)
    num_listed_images: int = 0
    num_listed_boxes: int = 0
    folders: Sequence[str] = ()
    is_annotated: Callable[[str], bool] = lambda path: False
    notes: list[str] = field(default_factory=list)
    implied: tuple[str, ...] = ()
    inputs_known: bool = True
    name: str = ""
    split: str = ""

    def set_boxes(self, boxes: Sequence[BoxRecord]) -> None:
        """Fill in the columns of the boxes."""
        self.box_images = np.array([box.image for box in boxes], dtype=np.int64)
        self.labels = np.array([box.label for box in boxes], dtype=np.int64)
        self.boxes_xywh = np.array([box.xywh for box in boxes], dtype=np.float64).reshape(-1, 4)
        self.areas = np.array([box.area for box in boxes], dtype=np.float64)
        self.iscrowd = np.array([box.iscrowd for box in boxes], dtype=bool)
        self.box_name, self.box_where = (lambda box: boxes[box].name), (lambda box: boxes[box].where)

    def problem(
        self,
        kind: str,
        *,
        file: str,
        annotation: str = "",
        detail: str = "",
        error: str = "",
        image: int | None = None,
        is_shown: bool = True,
    ) -> None:
        """Note a problem with an entry; see `Problem`."""
        self.problems.append(Problem(kind, file, annotation, detail, error, image, is_shown))

    def change(self, kind: str, *, file: str, annotation: str) -> None:
        """Note what a cleaned copy omits or changes without a corresponding problem."""
        self.changes.append(Problem(kind, file, annotation, ""))


class Found(NamedTuple):
    """A dataset that has been found but not read.

    annotations_file: annotation file or folder, used to name the dataset in messages.
    images_dir: folder that file names are relative to.
    inputs: every file or folder that its annotations depend on, besides the code.
    read: reads and returns the split.
    part: key of the split in `annotations_file`, if that describes several.
    warnings: warnings for the user, one line each.
    """

    format: str
    annotations_file: Path
    images_dir: Path
    inputs: Sequence[str]
    read: Callable[[], Part]
    part: str = ""
    warnings: tuple[str, ...] = ()


def to_annotations(part: Part, on_bad: OnBad) -> Annotations:
    """Convert the split for training.

    Raises:
        DatasetError: the first problem that is an error, except for boxes of unlisted images, which `on_bad.box` can
            drop; or as for `arrange`; or as for `sizes_of`, if the size of an image is read from its file.
        ConfigError: `on_bad.box` is neither "error" nor "drop".
    """
    unlisted = 0
    for problem in part.problems:
        if problem.kind == "unknown-image" and on_bad.box == "drop":
            unlisted += 1
        elif problem.error:
            raise DatasetError(problem.error)
    names = [image.file_name for image in part.images]
    sizes = _sizes(part, names, on_bad.image)
    if part.form == CENTER:
        sizes_wh = sizes.sizes_wh
        boxes_xywh = part.boxes_xywh * np.tile(sizes_wh[part.box_images], 2)
    else:
        boxes_xywh = part.boxes_xywh
        sizes_wh = sizes.enlarged_to_boxes(boxes_xywh, part.box_images)
    objects = Objects(
        categories=Categories(part.categories),
        image_ids=np.array([image.image_id for image in part.images], dtype=np.int64),
        file_names=names,
        sizes_wh=sizes_wh,
        image_of_box=part.box_images,
        boxes_xywh=boxes_xywh,
        labels=part.labels,
        areas=part.areas,
        iscrowd=part.iscrowd,
    )
    left_out = f"{part.source}: dropped annotations of images that are not listed: {unlisted}" if unlisted else ""
    notes = filter(None, [left_out, *part.notes, sizes.note])
    columns = arrange(
        objects, source=part.source, on_bad_box=on_bad.box, where=part.box_where, form=part.form, notes=notes
    )
    return columns._replace(implied=part.implied, inputs_known=part.inputs_known)


def _sizes(part: Part, names: Sequence[str], on_bad_image: str) -> Sizes:
    """Return the sizes of the images as stated, or from their files."""
    if part.are_files:
        paths = [str(part.images_dir / name) for name in names]
        sizes = sizes_of(paths, source=part.source, on_bad_image=on_bad_image)
        by_size = " For AP by size they count as {}x{} pixels".format(*PLACEHOLDER_WH)
        return sizes._replace(note=sizes.note + by_size) if sizes.note else sizes
    unstated = [i for i, image in enumerate(part.images) if image.size_wh is None]
    sizes_wh = np.array([image.size_wh or (0, 0) for image in part.images], dtype=np.int64).reshape(-1, 2)
    if not unstated:
        return Sizes(sizes_wh, [], "")
    return with_sizes_of_files(
        sizes_wh, unstated, names, part.images_dir, source=part.source, on_bad_image=on_bad_image
    )
