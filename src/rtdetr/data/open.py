"""`open_dataset`: find out what a path holds, COCO, YOLO or Pascal VOC, and give a `DetectionDataset` of it.

The layouts that are recognised stand at the top of `coco.py`, `yolo.py` and `voc.py`. In a folder that fits several,
the first of these three wins.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtdetr.categories import Categories
from rtdetr.data.annotations import BAD_IMAGE_CHOICES, Found, OnBad, tell
from rtdetr.data.coco import PATTERNS, coco_file, find_coco, find_only_coco
from rtdetr.data.dataset import DetectionDataset, Source
from rtdetr.data.hints import what_is_there
from rtdetr.data.huggingface import is_saved_table, is_table, open_table
from rtdetr.data.image_paths import REMEDY, with_images
from rtdetr.data.index_cache import read_cached
from rtdetr.data.merge import merge
from rtdetr.data.voc_files import find_voc, is_voc_list, stray_voc, voc_list
from rtdetr.data.yolo import find_yolo, yolo_file
from rtdetr.errors import ConfigError, DatasetError, MissingSplitError, nearest
from rtdetr.files import with_home
from rtdetr.images.sources import is_address, refused_address

_log = logging.getLogger(__name__)
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def open_dataset(
    path: Any,
    *,
    split: str,
    images: str | os.PathLike[str] | None = None,
    categories: Categories | None = None,
    on_bad_box: str = "error",
    on_bad_image: str = "error",
) -> DetectionDataset:
    """Open a dataset in COCO, YOLO or Pascal VOC form, a table of Hugging Face `datasets`, or several of them as one.

    Args:
        path: the dataset's folder; or a COCO JSON file or VOC list file, for which `split` is ignored; or a YOLO
            data.yaml; or a `datasets.Dataset` or `DatasetDict`; or a `DetectionDataset`; or a list of these.
        split: which part: "train", "val" (also found as "valid" or "validation") or "test".
        images: folder of the images of a COCO or VOC dataset, when it is not in one of the usual places.
        categories: class list of a trained model; see `DetectionDataset.with_categories`.
        on_bad_box: "error" or "drop" for boxes without an area inside their image.
        on_bad_image: "error" or "skip" for images that cannot be read; see `DetectionDataset.skipping_bad_images`.

    Raises:
        DatasetError: nothing of the kind is there, several files could be meant, or the dataset is not sound.
        ConfigError: unknown `split`, `on_bad_box` or `on_bad_image`, or `images` where it has no meaning.
    """
    if split not in SPLIT_NAMES:
        raise ConfigError(f"expected split 'train', 'val' or 'test', got {split!r}.{nearest(split, SPLIT_NAMES)}")
    if on_bad_image not in BAD_IMAGE_CHOICES:
        hint = nearest(on_bad_image, BAD_IMAGE_CHOICES)
        raise ConfigError(f"expected 'error' or 'skip' for bad images, got {on_bad_image!r}.{hint}")
    on_bad = OnBad(on_bad_box, on_bad_image)
    if isinstance(path, Sequence) and not isinstance(path, str):
        if not path:
            raise ConfigError("expected at least one dataset, got an empty list")
        if images is not None and len(path) > 1:
            raise ConfigError("a folder of images belongs to one dataset; lay out several in one of the usual ways")
        dataset = merge(
            [
                open_dataset(one, split=split, images=images, on_bad_box=on_bad_box, on_bad_image=on_bad_image)
                for one in path
            ]
        )
    elif isinstance(path, DetectionDataset):
        dataset = path
    elif is_table(path):
        dataset = open_table(path, SPLIT_NAMES[split], on_bad=on_bad)
    elif isinstance(path, str | os.PathLike):
        found = find_dataset(with_home(path), split=split, images=None if images is None else with_home(images))
        dataset = _read(found, on_bad)
    else:
        raise ConfigError(f"expected a path, a dataset or a list of them, got {type(path).__name__}")
    if on_bad_image == "skip":
        dataset = dataset.skipping_bad_images()
    return dataset if categories is None else dataset.with_categories(categories)


def find_dataset(path: Path, *, split: str, images: Path | None = None) -> Found:
    """Return what `open_dataset` would read.

    Raises:
        DatasetError, ConfigError: as for `open_dataset`, except for what only reading the annotations shows.
    """
    if split not in SPLIT_NAMES:
        raise ConfigError(f"expected split 'train', 'val' or 'test', got {split!r}.{nearest(split, SPLIT_NAMES)}")
    if images is not None and not images.is_dir():
        raise DatasetError(f"expected a folder of images, {images} is none")
    if path.is_dir():
        found = _in_folder(path, split, images)
    elif path.is_file():
        found = _from_file(path, split, images)
    elif is_address(path):
        raise DatasetError(refused_address(path))
    else:
        raise DatasetError(f"no dataset {path}: expected a folder, a COCO JSON file, a YOLO data.yaml or a VOC list")
    if found.format == "yolo" and images is not None:
        raise ConfigError(f"{found.annotations_file} says itself where its images are; leave 'images' out")
    return found


def _in_folder(root: Path, split: str, images: Path | None) -> Found:
    names = SPLIT_NAMES[split]
    found = find_coco(root, names, images=images) or find_yolo(root, names) or find_voc(root, split, images=images)
    only = None if found else find_only_coco(root, itertools.chain(*SPLIT_NAMES.values()), images=images)
    if split == "train":
        found = found or only
    if found is None and is_saved_table(root):
        raise DatasetError(
            f"{root} holds a table of Hugging Face datasets, which is read in Python only: "
            "rtdetr.train(datasets.load_from_disk(FOLDER)), or load_dataset(FOLDER), and rtdetr.data.open_dataset"
        )
    if found is None and only is not None:
        raise MissingSplitError(
            f"{root} has no annotations for '{split}': its only annotation file {only.annotations_file} names no "
            f"split and is taken for 'train'. Give a file for '{split}', or this one itself"
        )
    if found is None and (there := stray_voc(root, split, images=images) or what_is_there(root, SPLIT_NAMES)):
        raise MissingSplitError(f"{root} has no annotations for '{split}' in a usual place, but {there}")
    if found is None:
        coco = ", ".join(pattern.format(names[0]) for pattern in PATTERNS)
        coco += " or a single file in COCO form" if split == "train" else ""
        raise MissingSplitError(
            f"{root} has no annotations for '{split}'; looked for {coco} (COCO), data.yaml or another YAML file with "
            f"'names' (YOLO), Annotations with ImageSets/Main/{names[0]}.txt, {names[0]}.txt listing XML files, or "
            f"{names[0]}/*.xml (Pascal VOC). Give the annotation file itself, and if its images are elsewhere {REMEDY}"
        )
    return found


def _from_file(file: Path, split: str, images: Path | None) -> Found:
    match file.suffix.lower():
        case ".json":
            return coco_file(file, images=images)
        case ".yaml" | ".yml":
            return yolo_file(file, SPLIT_NAMES[split])
        case ".txt" if is_voc_list(file):
            return voc_list(file, images=images)
    raise DatasetError(
        f"{file}: expected a COCO file NAME.json, a YOLO description NAME.yaml, or a text file that lists the images "
        "and XML files of a VOC dataset; or give the dataset's folder"
    )


def _read(found: Found, on_bad: OnBad) -> DetectionDataset:
    annotations = read_cached(found, on_bad=on_bad)
    for warning in found.warnings:
        _log.warning("%s", warning)
    tell(annotations)
    annotations = with_images(annotations, found.annotations_file, found.images_dir, on_bad_image=on_bad.image)
    return DetectionDataset.of(annotations, Source(found.annotations_file, found.images_dir, annotations.categories))
