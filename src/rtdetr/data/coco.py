"""A COCO-format dataset: a folder of images and one annotation file.

`DetectionDataset(images_dir, annotations_file)` reads the annotations once (`annotations.py`) and the images when asked:
`load(i)` gives a PIL image and its objects, boxes in pixels. Labels are contiguous; `categories` keeps the file's ids.
`open_dataset` in `open.py` finds the two paths in the usual folder layouts.
"""

import copy
import os
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from rtdetr.categories import Categories
from rtdetr.data.annotations import clamped_xyxy, read_annotations
from rtdetr.errors import DatasetError, InputError
from rtdetr.preprocessing import open_image

_EXIF_ORIENTATION = 0x0112


class ImageTarget(TypedDict):
    """Objects of one image, crowd regions included: training leaves those out, evaluation ignores hits on them."""

    boxes_xyxy: np.ndarray  # float32 (n, 4), pixels, cut at the borders of the image
    labels: np.ndarray  # int64 (n,)
    area: np.ndarray  # float64 (n,), square pixels
    iscrowd: np.ndarray  # bool (n,)
    image_id: int
    size_wh: tuple[int, int]


class DetectionDataset:
    """Images with boxes, by ascending image id; images without objects are kept.

    Attributes:
        images_dir: the folder that `file_name` in the annotation file is relative to.
        annotations_file: the COCO JSON file.
        categories: classes by label, with the ids of the file. Without a given class list the labels are the rank of
            the id, which for COCO's own files is the published order.
        annotations: the columns of the file, see `Annotations`.
        image_ids: int64 (n,), ascending.

    Differs: published code takes ids outside COCO's own list as labels, so files that count from 1 or leave gaps
    train a wrong class or fail; here any ids work.
    """

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        annotations_file: str | os.PathLike[str],
        *,
        categories: Categories | None = None,
        on_bad_box: str = "error",
    ) -> None:
        """Read the annotations and see that every image file exists.

        Args:
            images_dir: folder of the images.
            annotations_file: COCO JSON file.
            categories: class list of a trained model, whose labels are then used; see `with_categories`.
            on_bad_box: "error" or "drop" for boxes without an area inside their image.

        Raises:
            DatasetError: a file is missing, broken or contradicts another, or the classes are not those given.
        """
        self.images_dir = Path(images_dir)
        self.annotations_file = Path(annotations_file)
        self.annotations = read_annotations(self.annotations_file, on_bad_box=on_bad_box)
        _check_files_exist(self.annotations_file, self.images_dir, self.annotations.file_names.tolist())
        if categories is not None:
            self.annotations = self.with_categories(categories).annotations

    @property
    def categories(self) -> Categories:
        """Classes by label, with the ids of the annotation file."""
        return self.annotations.categories

    @property
    def image_ids(self) -> np.ndarray:
        """Ids of the images, int64 (n,), ascending."""
        return self.annotations.image_ids

    def __len__(self) -> int:
        return len(self.annotations.image_ids)

    def __repr__(self) -> str:
        boxes = len(self.annotations.labels)
        return (
            f"DetectionDataset({self.annotations_file}: {len(self)} images, {boxes} boxes, {len(self.categories)} classes)"
        )

    def path(self, index: int) -> Path:
        """File of one image."""
        return self.images_dir / str(self.annotations.file_names[index])

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
        return self._read_image(index, target), target

    def with_categories(self, categories: Categories) -> "DetectionDataset":
        """The same data with the labels of another class list, such as a trained model's.

        Classes are matched by name. A list without real names (`Categories.numbered`) is matched by position. The new
        dataset's `categories` have the order of the list given and the ids of the annotation file.

        Raises:
            DatasetError: the two lists do not hold the same classes; the message names the differences.
        """
        own = self.categories
        names = categories.names
        if categories == Categories.numbered(len(own)):
            names = own.names
        missing, unknown = sorted(set(names) - set(own.names)), sorted(set(own.names) - set(names))
        if missing or unknown:
            differences = _listed("only the model has", missing) + _listed("only the file has", unknown)
            raise DatasetError(
                f"{self.annotations_file}: expected the {len(names)} classes of the model, got {len(own)};"
                f"{differences}. Use a model trained on these classes, or give the classes the same names"
            )
        label_of_name = {name: label for label, name in enumerate(names)}
        new_labels = np.array([label_of_name[name] for name in own.names])
        own_of_name = {category.name: category for category in own}
        relabelled = copy.copy(self)
        relabelled.annotations = self.annotations._replace(
            categories=Categories(own_of_name[name] for name in names), labels=new_labels[self.annotations.labels]
        )
        return relabelled

    def _read_image(self, index: int, target: ImageTarget) -> Image.Image:
        path = self.path(index)
        try:
            image = open_image(path)
            if image.size != target["size_wh"]:
                image = _open_unrotated(path)
        except InputError as error:
            raise DatasetError(f"{self.annotations_file}: image {target['image_id']}: {error}") from None
        if image.size != target["size_wh"]:
            stated = "{}x{}".format(*target["size_wh"])
            raise DatasetError(
                f"{self.annotations_file}: image {target['image_id']} is {stated} pixels there, but {path} is "
                f"{image.width}x{image.height}; its boxes would be misplaced. Put the annotated image there or correct "
                "width, height and boxes"
            )
        return image


def _open_unrotated(path: Path) -> Image.Image:
    """Read an image as its file stores it: some tools annotate photos without applying their EXIF rotation."""
    with Image.open(path) as image:
        image.getexif().pop(_EXIF_ORIENTATION, None)
        return open_image(image)


def _check_files_exist(annotations_file: Path, images_dir: Path, file_names: list[str]) -> None:
    """Find missing images now, with one listing a folder, and not in the middle of an epoch."""
    folders = {os.path.dirname(name) for name in file_names}
    present = {(folder, name) for folder in folders for name in _listing(images_dir / folder)}
    missing = [name for name in file_names if os.path.split(name) not in present]
    if missing:
        raise DatasetError(
            f"{annotations_file}: {len(missing)} of its {len(file_names)} images are not in {images_dir}, "
            f"the first is {missing[0]!r}. Copy them there or give the right folder with --images"
        )


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def _listed(text: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" {text} {', '.join(map(repr, names[:5]))}{more}"
