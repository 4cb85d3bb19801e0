"""`DetectionDataset`: images with boxes, the one type that every format and every mixture of them becomes.

`load(i)` gives a PIL image and its objects, boxes in pixels. Labels are contiguous inside; `categories` and `image_ids`
keep what the files call them. The annotations are flat arrays (`annotations.py`); images are read when asked for.
`open_dataset` in `open.py` makes these from paths.
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
from rtdetr.data.annotations import Annotations, OnBad, clamped_xyxy, tell
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
from rtdetr.images.limit import pixels_hint
from rtdetr.wording import counted, have

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read", bound=LoadedImage)


class ImageTarget(TypedDict):
    """Objects of one image, crowd regions included: training leaves those out, evaluation ignores hits on them."""

    boxes_xyxy: np.ndarray  # float32 (n, 4), pixels, cut at the borders of the image
    labels: np.ndarray  # int64 (n,)
    area: np.ndarray  # float64 (n,), square pixels
    iscrowd: np.ndarray  # bool (n,)
    image_id: int
    size_wh: tuple[int, int]


class ImageTable(Protocol):
    """Images that are in a table instead of files in a folder."""

    def image(self, index: int) -> ImageSource:
        """One image of the source, in any form that `rtdetr.images` reads."""
        ...


class Source(NamedTuple):
    """One of the places that a dataset's images come from.

    annotations_file: the file, or folder of files, that names the source in messages.
    images: the folder that file names are relative to, or a table.
    categories: the classes with the ids of this source.
    first: index in the dataset of the source's first image.
    id_offset: an image's id in the dataset minus its id in the source.
    """

    annotations_file: Path
    images: Path | ImageTable
    categories: Categories
    first: int = 0
    id_offset: int = 0


class DetectionDataset:
    """Images with boxes, by ascending image id; images without objects are kept.

    Attributes:
        annotations: the columns, see `Annotations`.
        sources: where the images come from; one, unless several datasets were merged.
        skips_bad_images: see `skipping_bad_images`.
    """

    annotations: Annotations
    sources: tuple[Source, ...]
    skips_bad_images: bool = False
    _told: set[int]  # images that were named as bad; only where these are skipped

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        annotations_file: str | os.PathLike[str],
        *,
        categories: Categories | None = None,
        on_bad_box: str = "error",
    ) -> None:
        """Read a COCO JSON file, and see that every image file exists. For other formats there is `open_dataset`.

        Args:
            images_dir: folder of the images.
            annotations_file: COCO JSON file.
            categories: class list of a trained model, whose labels are then used; see `with_categories`.
            on_bad_box: "error" or "drop" for boxes without an area inside their image.

        Raises:
            DatasetError: a file is missing, broken or contradicts another, or the classes are not those given.
        """
        file, folder = Path(annotations_file), Path(images_dir)
        self.annotations = with_images(to_annotations(read_coco(file, folder), OnBad(on_bad_box)), file, folder)
        tell(self.annotations)
        self.sources = (Source(file, folder, self.annotations.categories),)
        if categories is not None:
            self.annotations = self.with_categories(categories).annotations

    @classmethod
    def of(cls, annotations: Annotations, *sources: Source) -> "DetectionDataset":
        """A dataset of columns that were read and checked before."""
        dataset = cls.__new__(cls)
        dataset.annotations, dataset.sources = annotations, sources
        return dataset

    @property
    def categories(self) -> Categories:
        """Classes by label, with the ids of the annotation file; of merged datasets see `merge`."""
        return self.annotations.categories

    @property
    def image_ids(self) -> np.ndarray:
        """Ids of the images, int64 (n,), ascending."""
        return self.annotations.image_ids

    @property
    def annotations_file(self) -> Path:
        """The file, or folder of files, that names the dataset in messages; the first of merged datasets."""
        return self.sources[0].annotations_file

    @property
    def images_dir(self) -> Path:
        """The folder that file names are relative to; that of the first of merged datasets."""
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
        """The source of one image."""
        if len(self.sources) == 1:
            return self.sources[0]
        return next(source for source in reversed(self.sources) if source.first <= index)

    def source_id(self, index: int) -> int:
        """The id that one image has in its source."""
        return int(self.image_ids[index]) - self.source_of(index).id_offset

    def path(self, index: int) -> Path:
        """File of one image; for the row of a table only a name."""
        images = self.source_of(index).images
        name = str(self.annotations.file_names[index])
        return images / name if isinstance(images, Path) else Path(name)

    def target(self, index: int) -> ImageTarget:
        """Objects of one image, without reading the image."""
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
        """Read one image, RGB and upright, with its objects.

        Raises:
            DatasetError: the file is not an image, is damaged, or has another size than the annotation file says.
        """
        target = self.target(index)
        return self._read(index, target, open_image), target

    def image(self, index: int, *, num_channels: int = 3) -> LoadedImage:
        """Read one image for a detector with `num_channels`: PIL's RGB for 3, else an array (h, w, num_channels).

        An image that cannot be read is gray where `skips_bad_images`, and there is a warning.

        Raises:
            DatasetError: as for `load`, unless `skips_bad_images`.
        """
        read = functools.partial(read_image, num_channels=num_channels)
        picture = self._read_or_none(index, read)
        if picture is not None:
            return picture
        width, height = self.target(index)["size_wh"]
        return read_image(np.full((height, width, num_channels), 128, np.uint8), num_channels=num_channels)

    def view(self, index: int) -> Image.Image:
        """Read one image to show it to a person, RGB whatever its channels; see `images.viewable`.

        An image that cannot be read is gray where `skips_bad_images`.

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
            if index not in self._told:
                self._told.add(index)
                reason = str(error).removesuffix(BAD_IMAGES)
                text = "taken for gray, so that its objects count as missed: %s"
                _log.warning(text, reason, extra={"of_one_process": True})
                if len(self._told) == len(self):
                    self._refuse_all()
            return None

    def load_array(self, index: int, *, num_channels: int = 3, reduction: int = 1) -> tuple[np.ndarray, ImageTarget]:
        """Read one image as uint8 (h, w, num_channels), with its objects: what `images.load_image` makes of it.

        Args:
            index: of the image.
            num_channels: of the model: 3 for RGB, 1 for gray; any other number needs images stored that way.
            reduction: how much smaller the sides may be, for the sake of speed; see `load_image`. The boxes stay.

        Raises:
            DatasetError: as for `load`, or the image has another number of channels.
        """
        target = self.target(index)
        read = functools.partial(load_image, num_channels=num_channels, reduction=reduction)
        return self._read(index, target, read, reduction=reduction), target

    def skipping_bad_images(self) -> "DetectionDataset":
        """The same data, for which an image that cannot be read does not end a training or an evaluation.

        There is a warning then, one for each image. A training shows another image instead; in an evaluation its
        objects count as missed. `load` and `load_array` raise as ever.

        Raises:
            DatasetError: none of the images can be read.
        """
        tolerant = copy.copy(self)
        tolerant.skips_bad_images, tolerant._told = True, set()
        if len(self) and not any(map(self._has_header, range(len(self)))):  # the first one is enough
            self._refuse_all()
        return tolerant

    def _refuse_all(self) -> NoReturn:
        raise DatasetError(f"{self.annotations_file}: none of its {counted(len(self), 'image')} can be read")

    def _has_header(self, index: int) -> bool:
        """Whether an image's size can be read."""
        if not isinstance(self.source_of(index).images, Path):
            return True  # a table's are in memory
        try:
            return image_size(self.path(index)) is not None
        except InputError:
            return False

    def check_pixels(self) -> None:
        """See that no image has more pixels than may be read, by the sizes that the annotations state.

        Raises:
            DatasetError: names the largest, unless `skips_bad_images`.
        """
        most, pixels = max_pixels(), self.annotations.sizes_wh.prod(axis=1)
        if most is None or self.skips_bad_images or pixels.max(initial=0) <= most:
            return
        index, count = int(pixels.argmax()), int((pixels > most).sum())
        width, height = self.annotations.sizes_wh[index].tolist()
        raise DatasetError(
            f"{self.source_of(index).annotations_file}: {count} of {counted(len(self), 'image')} {have(count)} more "
            f"than {most:,} pixels, the largest is {self.path(index)} with {width}x{height}; "
            f"{pixels_hint(width * height)}"
        )

    def with_categories(self, categories: Categories) -> "DetectionDataset":
        """The same data with the labels of another class list, such as a trained model's.

        Classes are matched by name. A list without real names (`Categories.numbered`) is matched by position, or by
        category id if it has a row for each id from 0 on; `Categories.of_ids` is matched by category id. The new
        dataset's `categories` have the order of the list given and the ids of this dataset; a class that only the list
        has keeps its id there, or gets the next free one. Classes that this dataset has no objects of may be missing
        in the list; they are left out.

        Raises:
            DatasetError: this dataset has objects of a class that the list lacks, or no class in common with it; the
                message names the differences.
        """
        matched = match_classes(self.annotations, categories, file=self.annotations_file)
        if matched is self.annotations:
            return self
        relabeled = copy.copy(self)
        relabeled.annotations = matched
        return relabeled

    def _read(self, index: int, target: ImageTarget, read: Callable[..., _Read], *, reduction: int = 1) -> _Read:
        """Read an image; as its file stores it where only that has the size stated: some tools ignore EXIF rotation."""
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
                f"{source.annotations_file}: image {image_id} is {stated} pixels there, but {path} is {got}; its boxes "
                f"would be misplaced. Put the annotated image there or correct width, height and boxes.{BAD_IMAGES}"
            )
        return image
