"""Find the annotation file of a COCO dataset and the folder of its images. `coco.py` reads it."""

import functools
import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rtdetr.data.coco import read_coco
from rtdetr.data.image_files import listing
from rtdetr.data.records import Found
from rtdetr.errors import DatasetError
from rtdetr.images.files import is_hidden

PATTERNS = (
    "annotations/instances_{}2017.json",
    "annotations/instances_{}*.json",
    "annotations/{}.json",
    "{}.json",
    "{}/_annotations.coco.json",
)
_USUAL_NAMES = ("result.json", "_annotations.coco.json", "annotations.json", "instances_default.json")
_WIDE = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def find_coco(root: Path, names: Sequence[str], *, images: Path | None) -> Found | None:
    """Find the annotation file of a split, which has one of `names`, in the folder of a dataset; None if there is none.

    Raises:
        DatasetError: several files match.
    """
    for pattern in PATTERNS:
        found = sorted(file for name in names for file in root.glob(pattern.format(name)))
        if len(found) > 1:
            listed = ", ".join(str(file) for file in found)
            raise DatasetError(f"{root} has several annotation files for '{names[0]}': {listed}. Give the file itself")
        if found:
            return coco_file(found[0], images=images)
    return None


def find_only_coco(root: Path, names: Iterable[str], *, images: Path | None) -> Found | None:
    """Find the only annotation file of a folder, if its name has none of the split names `names`.

    Raises:
        DatasetError: several files match.
    """
    if any(any(root.glob(pattern.format(name))) for name in names for pattern in PATTERNS):
        return None
    for folder in (root, root / "annotations"):
        files = sorted(folder / name for name in listing(folder) if name.lower().endswith(".json"))
        found = [file for file in files if not is_hidden(file.name) and may_be_coco(file)]
        usual = [file for file in found if file.name.lower() in _USUAL_NAMES] or found
        if len(usual) > 1:
            listed = ", ".join(str(file) for file in usual)
            raise DatasetError(f"{root} has several annotation files: {listed}. Give the file itself")
        if usual:
            return coco_file(usual[0], images=images)
    return None


def may_be_coco(file: Path) -> bool:
    """Return whether a JSON file contains the keys of a COCO file, without parsing it."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            wide = next((name for mark, name in _WIDE.items() if content[:2] == mark), None)
            keys = [f'"{key}"'.encode(wide or "utf-8") for key in ("images", "annotations", "categories")]
            return all(content.find(key) >= 0 for key in keys)
    except (OSError, ValueError):  # ValueError: it is empty
        return False


def coco_file(file: Path, *, images: Path | None) -> Found:
    """Return a COCO file and the folder of its images: `images`, else the first that exists, else the file's folder."""
    images_dir = images or _images_of(file)
    return Found("coco", file, images_dir, [str(file)], functools.partial(read_coco, file, images_dir))


def _images_of(file: Path) -> Path:
    own = file.parent
    root = own.parent if own.name == "annotations" else own
    part = file.stem.removeprefix("instances_")
    candidates = [root / "images" / part, root / part, root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), own)


def write_coco(root: Path, split: str, content: dict[str, Any]) -> None:
    """Write the annotation file of a split to the folder of a dataset."""
    file = root / "annotations" / f"{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
