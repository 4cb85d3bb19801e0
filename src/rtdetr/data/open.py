"""Find the annotation file and the images of a dataset in the folder layouts that are in use.

| layout      | annotations                                  | images                               |
|-------------|----------------------------------------------|--------------------------------------|
| COCO        | annotations/instances_val2017.json           | val2017/ or images/val2017/          |
| simple      | annotations/val.json or val.json             | images/val/, val/ or images/         |
| Roboflow    | valid/_annotations.coco.json                 | valid/                               |
| single file | any.json                                     | as above, in `images/` or beside it  |
"""

import os
from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.data.coco import DetectionDataset
from rtdetr.errors import ConfigError, DatasetError, nearest

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class CocoPaths(NamedTuple):
    """Where a dataset is."""

    annotations_file: Path
    images_dir: Path


def open_dataset(
    path: str | os.PathLike[str],
    *,
    split: str,
    images: str | os.PathLike[str] | None = None,
    categories: Categories | None = None,
    on_bad_box: str = "error",
) -> DetectionDataset:
    """Open a COCO-format dataset, given its folder or its annotation file.

    Args:
        path: the dataset's folder, or a COCO JSON file, for which `split` is ignored.
        split: which part of the folder: "train", "val" (also found as "valid") or "test".
        images: folder of the images, when it is not in one of the usual places.
        categories: class list of a trained model; see `DetectionDataset.with_categories`.
        on_bad_box: "error" or "drop" for boxes without an area inside their image.

    Raises:
        DatasetError: nothing of the kind is there, several files could be meant, or the dataset is not sound.
        ConfigError: unknown `split` or `on_bad_box`.
    """
    found = find_dataset(Path(path), split=split, images=None if images is None else Path(images))
    return DetectionDataset(found.images_dir, found.annotations_file, categories=categories, on_bad_box=on_bad_box)


def find_dataset(path: Path, *, split: str, images: Path | None = None) -> CocoPaths:
    """Return the files that `open_dataset` reads."""
    if split not in _SPLIT_NAMES:
        raise ConfigError(f"expected split 'train', 'val' or 'test', got {split!r}.{nearest(split, _SPLIT_NAMES)}")
    if images is not None and not images.is_dir():
        raise DatasetError(f"expected a folder of images, {images} is none")
    if path.is_dir():
        annotations_file = _annotations_in(path, split)
    elif path.is_file():
        annotations_file = path
    else:
        raise DatasetError(f"no dataset {path}: expected a folder or a COCO JSON file")
    return CocoPaths(annotations_file, images or _images_of(annotations_file))


def _annotations_in(root: Path, split: str) -> Path:
    names = _SPLIT_NAMES[split]
    patterns = ["annotations/instances_{}2017.json", "annotations/instances_{}*.json", "annotations/{}.json"]
    patterns += ["{}.json", "{}/_annotations.coco.json"]
    for pattern in patterns:
        found = sorted(file for name in names for file in root.glob(pattern.format(name)))
        if len(found) > 1:
            listed = ", ".join(str(file) for file in found)
            raise DatasetError(f"{root} has several annotation files for '{split}': {listed}. Give the file itself")
        if found:
            return found[0]
    raise DatasetError(
        f"{root} has no annotations for '{split}'; looked for {', '.join(p.format(names[0]) for p in patterns)}. "
        "Give the JSON file itself, with --images for its folder of images"
    )


def _images_of(annotations_file: Path) -> Path:
    """The folder of images that belongs to an annotation file: the first that exists, else the file's own."""
    beside = annotations_file.parent
    if annotations_file.name == "_annotations.coco.json":
        return beside
    root = beside.parent if beside.name == "annotations" else beside
    part = annotations_file.stem.removeprefix("instances_")
    candidates = [root / "images" / part, root / part, root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), beside)
