"""Images without annotations, which a teacher labels before the training (`rtdetr.training.pseudo_labels`)."""

import logging
import os
from pathlib import Path

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import Annotations
from rtdetr.data.dataset import DetectionDataset, Source
from rtdetr.data.image_files import sizes_of
from rtdetr.errors import DatasetError
from rtdetr.images.files import images_below
from rtdetr.wording import are, counted

_log = logging.getLogger(__name__)


def open_unlabelled(
    folder: str | os.PathLike[str],
    categories: Categories,
    *,
    train: DetectionDataset | None = None,
    val: DetectionDataset | None = None,
    on_bad_image: str = "error",
) -> DetectionDataset:
    """Open the images of a folder and its subfolders as a dataset without objects.

    Images of the training data are left out, because they have labels.

    Args:
        folder: folder of images.
        categories: classes of the dataset.
        train: the labelled images, if any.
        val: the validation images, which must not be in the folder.
        on_bad_image: what to do with unreadable images: "error", or "skip" to leave them out.

    Raises:
        DatasetError: the folder does not exist, has no images besides those of the training data, or has validation
            images; or an image cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"unlabelled (--unlabelled): {root} is not a folder; expected a folder of images")
    files = images_below(root)
    if not files:
        raise DatasetError(f"unlabelled (--unlabelled): no images in {root} or its subfolders")
    names = [os.path.relpath(file, root) for file in files]
    paths = [os.path.realpath(file) for file in files]
    measured = _files_of(val)
    if shared := [name for name, path in zip(names, paths, strict=True) if path in measured]:
        raise DatasetError(
            f"unlabelled (--unlabelled): {root} has {len(shared)} of {counted(len(measured), 'validation image')}, "
            f"such as {shared[0]}. Training on them would make the measured accuracy meaningless: remove them from the "
            "folder, or give another one"
        )
    labelled = _files_of(train)
    kept = [name for name, path in zip(names, paths, strict=True) if path not in labelled]
    if not kept:
        raise DatasetError(
            f"unlabelled (--unlabelled): all {counted(len(names), 'image')} in {root} are in the training data already"
        )
    if len(kept) < len(names):
        count = len(names) - len(kept)
        text = "skipping %s of %s, which %s in the training data already"
        _log.info(text, count, counted(len(names), "unlabelled image"), are(count))
    sizes = sizes_of([str(root / name) for name in kept], source=root, on_bad_image=on_bad_image)
    if sizes.unread:
        _log.warning("%s", sizes.note)
        readable = np.setdiff1d(np.arange(len(kept)), sizes.unread)
        kept, sizes = [kept[i] for i in readable], sizes._replace(sizes_wh=sizes.sizes_wh[readable])
    annotations = Annotations(
        categories=categories,
        image_ids=np.arange(1, len(kept) + 1),
        file_names=np.array(kept),
        sizes_wh=sizes.sizes_wh,
        starts=np.zeros(len(kept) + 1, np.int64),
        boxes_xywh=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0),
        iscrowd=np.zeros(0, bool),
    )
    return DetectionDataset.of(annotations, Source(root, root, categories))


def _files_of(dataset: DetectionDataset | None) -> set[str]:
    """Return the real paths of the images of a dataset that are files."""
    if dataset is None:
        return set()
    in_folders = (i for i in range(len(dataset)) if isinstance(dataset.source_of(i).images, Path))
    return {os.path.realpath(dataset.path(i)) for i in in_folders}
