"""Cache the parsed annotations of large datasets in the user's cache folder.

A cache file is valid as long as the size and change time of every input of the dataset are the same. It has a checksum;
an outdated, damaged or unreadable file is ignored and rewritten, and if the folder is not writable nothing is cached.
The folder is RTDETR_CACHE, or else `rtdetr` in the user's cache folder; it can be deleted at any time.
"""

import hashlib
import io
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import Annotations, OnBad
from rtdetr.data.records import Found, to_annotations
from rtdetr.errors import DatasetError, InputError
from rtdetr.files import cache_dir, write_atomically

_log = logging.getLogger(__name__)
_VERSION = 6  # raise it whenever a reader returns different columns for the same files
_MIN_ROWS = 20_000  # images and boxes; fewer are read in about a second
_DIGEST_SIZE = 32
_COLUMNS = [
    name for name in Annotations._fields if name not in ("categories", "notes", "implied", "inputs_known")
]  # the arrays


def read_cached(found: Found, *, on_bad: OnBad) -> Annotations:
    """Return the annotations of a dataset, from the cache if it is up to date.

    Raises:
        DatasetError, ConfigError: as raised when the annotations are read.
    """
    fingerprint = _fingerprint(found, on_bad)
    # one file per combination of arguments, so a changed dataset replaces its old index
    places = [os.path.abspath(found.annotations_file), found.part, str(found.images_dir)]
    key = [str(_VERSION), found.format, *places, *on_bad]
    file = cache_dir() / "datasets" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.index"
    annotations = _load(file, fingerprint)
    if annotations is not None:
        return annotations
    start = time.monotonic()
    annotations = to_annotations(found.read(), on_bad)
    rows = len(annotations.image_ids) + len(annotations.labels)
    if rows >= _MIN_ROWS and annotations.inputs_known:
        _log.info("read %s in %.1f s", found.annotations_file, time.monotonic() - start)
        _save(file, fingerprint, annotations)
    return annotations


def _fingerprint(found: Found, on_bad: OnBad) -> bytes:
    """Return a hash that changes with any input; unlike the modification time, the change time cannot be set back."""
    digest = hashlib.sha256(f"{_VERSION} {' '.join(on_bad)}\n".encode())
    for path in found.inputs:
        try:
            stat = os.stat(path)
            state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        except (OSError, ValueError):
            state = "missing"
        digest.update(f"{path!r} {state}\n".encode())
    return digest.digest()


def _load(file: Path, fingerprint: bytes) -> Annotations | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    checksum, stored = content[:_DIGEST_SIZE], content[_DIGEST_SIZE : 2 * _DIGEST_SIZE]
    payload = memoryview(content)[_DIGEST_SIZE:]
    if stored != fingerprint or hashlib.sha256(payload).digest() != checksum:
        return None
    stream = io.BytesIO(content)
    stream.seek(2 * _DIGEST_SIZE)
    try:
        texts, *columns = (np.lib.format.read_array(stream, allow_pickle=False) for _ in range(1 + len(_COLUMNS)))
        content = json.loads(texts.tobytes())
        notes, implied = (tuple(map(str, content[name])) for name in ("notes", "implied"))
        named: dict[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
        annotations = Annotations(Categories.from_json(content["categories"]), **named, notes=notes, implied=implied)
        return annotations if _is_sound(annotations) else None
    except (ValueError, EOFError, OSError, KeyError, TypeError, MemoryError, InputError):
        return None


def _is_sound(annotations: Annotations) -> bool:
    """Return whether the columns have the types and lengths of `Annotations`, and valid labels."""
    num_images, num_boxes = annotations.image_ids.size, annotations.labels.size
    expected = {
        "image_ids": ("i8", (num_images,)),
        "sizes_wh": ("i8", (num_images, 2)),
        "starts": ("i8", (num_images + 1,)),
        "boxes_xywh": ("f8", (num_boxes, 4)),
        "labels": ("i8", (num_boxes,)),
        "areas": ("f8", (num_boxes,)),
        "iscrowd": ("?", (num_boxes,)),
    }
    columns = {name: getattr(annotations, name) for name in expected}
    if any((column.dtype, column.shape) != expected[name] for name, column in columns.items()):
        return False
    names, starts, labels = annotations.file_names, annotations.starts, annotations.labels
    if names.dtype.kind != "U" or names.shape != (num_images,):
        return False
    in_order = starts[0] == 0 and starts[-1] == num_boxes and bool((np.diff(starts) >= 0).all())
    return in_order and bool(((labels >= 0) & (labels < len(annotations.categories))).all())


def _save(file: Path, fingerprint: bytes, annotations: Annotations) -> None:
    stream = io.BytesIO()
    stream.write(fingerprint)
    content = {name: getattr(annotations, name) for name in ("notes", "implied")}
    texts = json.dumps({"categories": annotations.categories.to_json(), **content}).encode()
    columns = [getattr(annotations, name) for name in _COLUMNS]
    for column in (np.frombuffer(texts, dtype=np.uint8), *columns):
        np.save(stream, column, allow_pickle=False)

    def write(path: Path) -> None:
        with path.open("wb") as opened, stream.getbuffer() as payload:
            opened.write(hashlib.sha256(payload).digest())
            opened.write(payload)

    try:
        write_atomically(file, write, error=DatasetError)
    except DatasetError as error:
        _log.info("could not cache the index of the dataset: %s", error)
