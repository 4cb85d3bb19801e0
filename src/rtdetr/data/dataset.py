"""`DetectionDataset`: images with boxes, the common type for every format and for several datasets merged into one.

`load(i)` returns a PIL image and its objects, with boxes in pixels. Labels are contiguous; `categories` and `image_ids`
keep the ids of the files. Annotations are flat arrays (`annotations.py`); images are read on demand. `open_dataset` in
`open.py` creates these from paths.
"""

import copy
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, TypedDict, TypeVar

import numpy as np
from PIL import Image

from rtdetr.categories import Categories
from rtdetr.data.annotations import Annotations, OnBad, clamped_xyxy, log_notes
from rtdetr.data.class_matching import match_classes
from rtdetr.data.coco import read_coco
from rtdetr.data.image_files import BAD_IMAGES, sentence
from rtdetr.data.image_paths import with_images
from rtdetr.data.records import to_annotations
from rtdetr.errors import DatasetError, InputError
from rtdetr.images import (
    ImageSource,
    LoadedImage,
    image_size,
    load_image,
    max_pixels,
    open_image,
    read_image,
    size_of,
    viewable,
)
from rtdetr.images.decode import pixels_hint
from rtdetr.wording import counted, have

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read", bound=LoadedImage)


class ImageTarget(TypedDict):
    """Objects of one image, including crowd regions, which training omits and evaluation ignores."""

    boxes_xyxy: np.ndarray  # float32 (n, 4), pixels, clipped to the image
    labels: np.ndarray  # int64 (n,)
    area: np.ndarray  # float64 (n,), square pixels
    iscrowd: np.ndarray  # bool (n,)
    image_id: int
    size_wh: tuple[int, int]


class ImageTable(Protocol):
    """Images stored in a table instead of as files in a folder."""

    def image(self, index: int) -> ImageSource:
        """Return one image of the source, in any form that `rtdetr.images` reads."""
        ...


class Source(NamedTuple):
    """A source of a dataset's images.

    annotations_file: annotation file or folder, used to name the source in messages.
    images: folder that file names are relative to, or a table.
    categories: classes with the ids of this source.
    first: index in the dataset of the source's first image.
    id_offset: id of an image in the dataset minus its id in the source.
    """

    annotations_file: Path
    images: Path | ImageTable
    categories: Categories
    first: int = 0
    id_offset: int = 0


class DetectionDataset:
    """Images with boxes, in ascending order of image id, including images without objects.

    Attributes:
        annotations: the columns; see `Annotations`.
        sources: where the images come from; several only for merged datasets.
        skips_bad_images: whether unreadable images are tolerated; see `skipping_bad_images`.
    """

    annotations: Annotations
    sources: tuple[Source, ...]
    skips_bad_images: bool = False
    _warned: set[int]  # bad images that a warning has named; only if they are skipped

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        annotations_file: str | os.PathLike[str],
        *,
        categories: Categories | None = None,
        on_bad_box: str = "error",
    ) -> None:
        """Read a COCO JSON file and check that every image file exists. For other formats, use `open_dataset`.

        Args:
            images_dir: folder of the images.
            annotations_file: COCO JSON file.
            categories: class list of a trained model, to use its labels; see `with_categories`.
            on_bad_box: what to do with boxes that have no area inside their image: "error" or "drop".

        Raises:
            DatasetError: a file is missing, broken or contradicts another, or the classes do not match `categories`.
        """
        file, folder = Path(annotations_file), Path(images_dir)
        self.annotations = with_images(to_annotations(read_coco(file, folder), OnBad(on_bad_box)), file, folder)
        log_notes(self.annotations)
        self.sources = (Source(file, folder, self.annotations.categories),)
        if categories is not None:
            self.annotations = self.with_categories(categories).annotations

    @classmethod
    def of(cls, annotations: Annotations, *sources: Source) -> "DetectionDataset":
        """Create a dataset from columns that have already been read and checked."""
        dataset = cls.__new__(cls)
        dataset.annotations, dataset.sources = annotations, sources
        return dataset

    @property
    def categories(self) -> Categories:
        """Classes by label, with the ids of the annotation file; for merged datasets see `merge`."""
        return self.annotations.categories

    @property
    def image_ids(self) -> np.ndarray:
        """Image ids, int64 (n,), ascending."""
        return self.annotations.image_ids

    @property
    def annotations_file(self) -> Path:
        """Annotation file or folder, used to name the dataset in messages; that of the first if merged."""
        return self.sources[0].annotations_file

    @property
    def images_dir(self) -> Path:
        """Folder that file names are relative to; that of the first dataset if merged."""
        images = self.sources[0].images
        return images if isinstance(images, Path) else Path()

    def __len__(self) -> int:
        return len(self.annotations.image_ids)

    def __repr__(self) -> str:
        files = ", ".join(str(source.annotations_file) for source in self.sources)
        boxes, classes = len(self.annotations.labels), len(self.categories)
        counts = counted(len(self), "image"), counted(boxes, "box"), counted(classes, "class")
        return f"DetectionDataset({files}: {', '.join(counts)})"

    def source_of(self, index: int) -> Source:
        """Return the source of one image."""
        if len(self.sources) == 1:
            return self.sources[0]
        return next(source for source in reversed(self.sources) if source.first <= index)

    def source_id(self, index: int) -> int:
        """Return the id of one image in its source."""
        return int(self.image_ids[index]) - self.source_of(index).id_offset

    def path(self, index: int) -> Path:
        """Return the file of one image; for a row of a table, only a name."""
        images = self.source_of(index).images
        name = str(self.annotations.file_names[index])
        return images / name if isinstance(images, Path) else Path(name)

    def target(self, index: int) -> ImageTarget:
        """Return the objects of one image without reading the image."""
        columns = self.annotations
        rows = slice(columns.starts[index], columns.starts[index + 1])
        width, height = columns.sizes_wh[index].tolist()
        return ImageTarget(
            boxes_xyxy=clamped_xyxy(columns.boxes_xywh[rows], columns.sizes_wh[index]),
            labels=columns.labels[rows],
            area=columns.areas[rows],
            iscrowd=columns.iscrowd[rows],
            image_id=int(columns.image_ids[index]),
            size_wh=(width, height),
        )

    def load(self, index: int) -> tuple[Image.Image, ImageTarget]:
        """Read one image, RGB and upright, and return it with its objects.

        Raises:
            DatasetError: the file is not an image, is damaged, or differs in size from the annotation file.
        """
        target = self.target(index)
        return self._read(index, target, open_image), target

    def image(self, index: int, *, num_channels: int = 3) -> LoadedImage:
        """Read one image for a detector with `num_channels`: PIL RGB for 3, otherwise an array (h, w, num_channels).

        With `skips_bad_images`, an unreadable image is replaced by a gray one, with a warning.

        Raises:
            DatasetError: as for `load`, unless `skips_bad_images`.
        """
        read = functools.partial(read_image, num_channels=num_channels)
        image = self._read_or_none(index, read)
        if image is not None:
            return image
        width, height = self.target(index)["size_wh"]
        return read_image(np.full((height, width, num_channels), 128, np.uint8), num_channels=num_channels)

    def view(self, index: int) -> Image.Image:
        """Read one image for display, as RGB regardless of its channels; see `images.viewable`.

        With `skips_bad_images`, an unreadable image is replaced by a gray one.

        Raises:
            DatasetError: as for `load`, unless `skips_bad_images`.
        """
        return self._read_or_none(index, viewable) or Image.new("RGB", self.target(index)["size_wh"], "gray")

    def _read_or_none(self, index: int, read: Callable[..., _Read]) -> _Read | None:
        try:
            return self._read(index, self.target(index), read)
        except DatasetError as error:
            if not self.skips_bad_images:
                raise
            if index not in self._warned:
                self._warned.add(index)
                reason = str(error).removesuffix(BAD_IMAGES)
                text = "replaced by a gray image, so its objects count as missed: %s"
                _log.warning(text, reason, extra={"of_one_process": True})
                if len(self._warned) == len(self):
                    self._refuse_all()
            return None

    def load_array(self, index: int, *, num_channels: int = 3, reduction: int = 1) -> tuple[np.ndarray, ImageTarget]:
        """Read one image with `images.load_image`, as uint8 (h, w, num_channels), and return it with its objects.

        Args:
            index: index of the image.
            num_channels: channels of the model: 3 for RGB, 1 for gray; any other number requires images stored so.
            reduction: factor by which the sides may be reduced, for speed; see `load_image`. Boxes are not scaled.

        Raises:
            DatasetError: as for `load`, or the image has the wrong number of channels.
        """
        target = self.target(index)
        read = functools.partial(load_image, num_channels=num_channels, reduction=reduction)
        return self._read(index, target, read, reduction=reduction), target

    def skipping_bad_images(self) -> "DetectionDataset":
        """Return the same data, but an unreadable image no longer ends a training or an evaluation.

        Each such image gives one warning. Training uses another image instead; in an evaluation its objects count as
        missed. `load` and `load_array` still raise.

        Raises:
            DatasetError: no image can be read.
        """
        tolerant = copy.copy(self)
        tolerant.skips_bad_images, tolerant._warned = True, set()
        if len(self) and not any(map(self._has_header, range(len(self)))):  # the first one is enough
            self._refuse_all()
        return tolerant

    def _refuse_all(self) -> NoReturn:
        raise DatasetError(f"{self.annotations_file}: none of its {counted(len(self), 'image')} can be read")

    def _has_header(self, index: int) -> bool:
        """Return whether the size of an image can be read."""
        if not isinstance(self.source_of(index).images, Path):
            return True  # the images of a table are in memory
        try:
            return image_size(self.path(index)) is not None
        except InputError:
            return False

    def check_pixels(self) -> None:
        """Check from the sizes in the annotations that no image exceeds the pixel limit.

        Raises:
            DatasetError: an image does, and `skips_bad_images` is off; names the largest.
        """
        most, pixels = max_pixels(), self.annotations.sizes_wh.prod(axis=1)
        if most is None or self.skips_bad_images or pixels.max(initial=0) <= most:
            return
        index, count = int(pixels.argmax()), int((pixels > most).sum())
        width, height = self.annotations.sizes_wh[index].tolist()
        raise DatasetError(
            f"{self.source_of(index).annotations_file}: {count} of {counted(len(self), 'image')} {have(count)} more "
            f"than {most:,} pixels; the largest is {self.path(index)} with {width}x{height}; "
            f"{pixels_hint(width * height)}"
        )

    def with_categories(self, categories: Categories) -> "DetectionDataset":
        """Return the same data with the labels of another class list, such as that of a trained model.

        Classes are matched by name. A list without real names (`Categories.numbered`) is matched by position, or by
        category id if it has a row for each id from 0 on; `Categories.of_ids` is matched by category id. The
        `categories` of the new dataset have the order of the given list and the ids of this dataset; a class that is
        only in the list keeps its id there, or gets the next free one. Classes without objects in this dataset may be
        missing from the list; they are omitted.

        Raises:
            DatasetError: this dataset has objects of a class that is not in the list, or no class in common with it;
                the message names the differences.
        """
        matched = match_classes(self.annotations, categories, file=self.annotations_file)
        if matched is self.annotations:
            return self
        relabeled = copy.copy(self)
        relabeled.annotations = matched
        return relabeled

    def _read(self, index: int, target: ImageTarget, read: Callable[..., _Read], *, reduction: int = 1) -> _Read:
        """Read an image upright, or without its EXIF rotation if only that matches the annotated size.

        Some annotation tools ignore EXIF rotation.
        """
        width, height = target["size_wh"]
        expected = {(-(-width // factor), -(-height // factor)) for factor in (1, 2, 4, 8) if factor <= reduction}
        source = self.source_of(index)
        path, table = self.path(index), source.images
        image_id = self.source_id(index)
        try:
            stored = path if isinstance(table, Path) else table.image(index - source.first)
            image = read(stored)
            if size_of(image) not in expected and isinstance(stored, Path):
                image = read(stored, upright=False)
        except InputError as error:
            raise DatasetError(f"{source.annotations_file}: image {image_id}: {sentence(error)}{BAD_IMAGES}") from None
        if size_of(image) not in expected:
            stated, got = "{}x{}".format(*target["size_wh"]), "{}x{}".format(*size_of(image))
            raise DatasetError(
                f"{source.annotations_file}: image {image_id} is annotated as {stated} pixels, but {path} is {got}; "
                "its boxes would be misplaced. Use the annotated image, or correct width, height and boxes."
                f"{BAD_IMAGES}"
            )
        return image
