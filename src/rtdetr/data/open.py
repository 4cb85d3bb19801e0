"""`open_dataset`: detect the format of a dataset from its path and return a `DetectionDataset`.

The formats are listed in `formats.py`; `coco.py`, `yolo.py` and `voc.py` describe their layouts at the top.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtdetr.categories import Categories
from rtdetr.data.annotations import BAD_IMAGE_CHOICES, OnBad, log_notes
from rtdetr.data.coco_files import find_only_coco
from rtdetr.data.dataset import DetectionDataset, Source
from rtdetr.data.formats import expected_files, expected_in_folder, find_in_file, find_in_folder
from rtdetr.data.hints import describe_contents
from rtdetr.data.huggingface import is_saved_table, is_table, open_table
from rtdetr.data.image_paths import REMEDY, with_images
from rtdetr.data.index_cache import read_cached
from rtdetr.data.merge import merge
from rtdetr.data.records import SPLIT_NAMES, Found
from rtdetr.data.voc_files import misplaced_voc_hint
from rtdetr.errors import ConfigError, DatasetError, MissingSplitError, nearest
from rtdetr.exported_files import exported_format
from rtdetr.files import with_home
from rtdetr.images.sources import is_url, url_message

_log = logging.getLogger(__name__)


def open_dataset(
    path: Any,
    *,
    split: str,
    images: str | os.PathLike[str] | None = None,
    categories: Categories | None = None,
    on_bad_box: str = "error",
    on_bad_image: str = "error",
) -> DetectionDataset:
    """Open a COCO, YOLO or Pascal VOC dataset, a table of Hugging Face `datasets`, or several merged into one.

    Args:
        path: folder of the dataset; or a COCO JSON file or VOC list file, for which `split` is ignored; or a YOLO
            data.yaml; or a `datasets.Dataset` or `DatasetDict`; or a `DetectionDataset`; or a list of these.
        split: "train", "val" (also found as "valid" or "validation") or "test".
        images: folder of the images of a COCO or VOC dataset, if it is not in one of the usual places.
        categories: class list of a trained model; see `DetectionDataset.with_categories`.
        on_bad_box: what to do with boxes that have no area inside their image: "error" or "drop".
        on_bad_image: what to do with unreadable images: "error" or "skip"; see
            `DetectionDataset.skipping_bad_images`.

    Raises:
        DatasetError: no dataset was found, several files match, or the dataset is not valid.
        ConfigError: `split`, `on_bad_box` or `on_bad_image` is unknown, or `images` does not apply.
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
            raise ConfigError(
                "'images' applies to one dataset only, but several are given; put the images of each in a usual place"
            )
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
        DatasetError, ConfigError: as for `open_dataset`, except for errors found when the annotations are read.
    """
    if split not in SPLIT_NAMES:
        raise ConfigError(f"expected split 'train', 'val' or 'test', got {split!r}.{nearest(split, SPLIT_NAMES)}")
    if images is not None and not images.is_dir():
        raise DatasetError(f"expected a folder of images, but {images} is not a folder")
    if path.is_dir():
        found = _in_folder(path, split, images)
    elif path.is_file():
        found = _from_file(path, split, images)
    elif is_url(path):
        raise DatasetError(url_message(path))
    else:
        raise DatasetError(f"no dataset {path}: expected a folder, {expected_files()}")
    return found


def _in_folder(root: Path, split: str, images: Path | None) -> Found:
    found = find_in_folder(root, split, images)
    only = None if found else find_only_coco(root, itertools.chain(*SPLIT_NAMES.values()), images=images)
    if split == "train":
        found = found or only
    if found is None and is_saved_table(root):
        raise DatasetError(
            f"{root} contains a table of Hugging Face datasets, which can be read from Python only: "
            "rtdetr.train(datasets.load_from_disk(FOLDER)), or load_dataset(FOLDER), and rtdetr.data.open_dataset"
        )
    if found is None and only is not None:
        raise MissingSplitError(
            f"{root} has no annotations for '{split}': its only annotation file {only.annotations_file} names no "
            f"split and counts as 'train'. Give a file for '{split}', or this file itself"
        )
    if found is None and (there := misplaced_voc_hint(root, split, images=images) or describe_contents(root)):
        raise MissingSplitError(f"{root} has no annotations for '{split}' in a usual place, but {there}")
    if found is None:
        others = [f"'{name}'" for name in SPLIT_NAMES if name != split and _has_split(root, name, images)]
        only_for = f", only for {' and '.join(others)}" if others else ""
        raise MissingSplitError(
            f"{root} has no annotations for '{split}'{only_for}; looked for {expected_in_folder(split)}. "
            f"Give the annotation file itself; if its images are elsewhere, {REMEDY}"
        )
    return found


def _has_split(root: Path, split: str, images: Path | None) -> bool:
    """Whether a folder has a split, which may have errors of its own."""
    try:
        return find_in_folder(root, split, images) is not None
    except MissingSplitError:
        return False
    except DatasetError:
        return True


def _from_file(file: Path, split: str, images: Path | None) -> Found:
    found = find_in_file(file, split, images)
    if found is None:
        hint = ""
        if exported_format(file) or file.suffix.lower() in (".pth", ".pt", ".safetensors"):
            hint = (
                ". It is named like a model: 'evaluate' and 'quantize' take MODEL before DATA, 'train' takes --weights"
            )
        raise DatasetError(f"{file}: expected {expected_files()}; or give the folder of the dataset{hint}")
    return found


def _read(found: Found, on_bad: OnBad) -> DetectionDataset:
    annotations = read_cached(found, on_bad=on_bad)
    for warning in found.warnings:
        _log.warning("%s", warning)
    log_notes(annotations)
    annotations = with_images(annotations, found.annotations_file, found.images_dir, on_bad_image=on_bad.image)
    return DetectionDataset.of(annotations, Source(found.annotations_file, found.images_dir, annotations.categories))
