"""Find the image files that annotations name, including paths written by other programs or on other machines.

A name is tried in this order, each form first in the image folder, then in the folder of the annotations:

1. as written, including absolute paths;
2. with Windows backslashes replaced by /;
3. decoded: %20 for a space and so on, or the path in a URL such as file:///data/x.png or /data/local-files/?d=x.png;
4. by its last part alone, if exactly one file in the image folder and its subfolders has that name (either Unicode
   form);
5. the same, ignoring case.

The last two search only the folder of the name if other images were found there: then this one is missing. A file that
matches two names, or a name that matches several files, is ambiguous and rejected. Each folder is listed once, and
there are no queries per image: on a network drive each takes milliseconds.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np

from rtdetr.data.annotations import Annotations
from rtdetr.data.image_files import Sizes, listing, sizes_of
from rtdetr.data.label_files import composed
from rtdetr.errors import DatasetError
from rtdetr.images.files import list_images
from rtdetr.wording import are, counted, more_like_it

_log = logging.getLogger(__name__)
_LOCAL_FILES = "?d="  # Label Studio: /data/local-files/?d=FOLDER/x.png
ANNOTATIONS, SLASH, DECODED, NAME, CASE = (
    "relative to the folder of the annotations",
    "with backslashes replaced by /",
    "by the decoded name",
    "by the last part of the path",
    "by the last part of the path, ignoring case",
)
REMEDY = (
    "give the right folder with --images of 'train', 'evaluate' or 'data check' (--val-images for --val-data; Python: "
    "images=)"
)


class Located(NamedTuple):
    """Locations of the images of a dataset.

    names: per listed name, the path of the file relative to the image folder, or its absolute path if it is elsewhere;
        the listed name if there is no file.
    ways: by position, how images were found that are not at the listed path.
    missing: positions of images that were not found.
    ambiguous: by position, two files that match one name, or two names that match one file.
    """

    names: list[str]
    ways: dict[int, str]
    missing: list[int]
    ambiguous: dict[int, tuple[str, str]]

    def note(self, source: object, listed: Sequence[str], *, total: int | None = None) -> str:
        """Summarize in one line which images were found elsewhere; empty if all are at the listed path.

        Args:
            source: name of the dataset in the message.
            listed: the names as listed.
            total: number of images that the source lists, if `listed` is only a part.
        """
        if not self.ways:
            return ""
        first = next(iter(self.ways))
        counts = ", ".join(f"{count} {way}" for way, count in Counter(self.ways.values()).items())
        return (
            f"{source}: {len(self.ways)} of its {counted(total or len(listed), 'image')} {are(self.ways)} not at the "
            f"listed path, but found elsewhere: {counts}; the first, {listed[first]!r}, is {self.names[first]}"
        )


def locate(names: Sequence[str], images_dir: Path, *, annotations_dir: Path) -> Located:
    """Find the files of images.

    Args:
        names: names in the annotations.
        images_dir: folder that they are relative to.
        annotations_dir: folder of the annotations.
    """
    folders = {os.path.dirname(name) for name in names}
    present = {(folder, name) for folder in folders for name in listing(images_dir / folder)}
    absent = [i for i, name in enumerate(names) if os.path.split(name) not in present]
    located = Located(list(names), {}, [], {})
    if not absent:
        return located
    missing = set(absent)
    right = {os.path.dirname(decode_name(name)) for i, name in enumerate(names) if i not in missing}
    finder = _Finder(images_dir, annotations_dir, right)
    for i in absent:
        found = finder.find(names[i])
        if not found:
            located.missing.append(i)
        elif len(found) > 1:
            located.ambiguous[i] = found[0][0], found[1][0]
        else:
            [(located.names[i], located.ways[i])] = found
    _refuse_shared(located, names)
    return located


def _refuse_shared(located: Located, listed: Sequence[str]) -> None:
    """Mark names as ambiguous if their file was found by the last part of the path and another name has it too."""
    guessed = {i for i, way in located.ways.items() if way in (NAME, CASE)}
    if not guessed:
        return
    names_of = defaultdict(dict[str, int])
    for i, name in enumerate(located.names):
        names_of[os.path.normpath(name)].setdefault(decode_name(listed[i]), i)
    for i in sorted(guessed):
        others = [name for name in names_of[os.path.normpath(located.names[i])] if name != decode_name(listed[i])]
        if others:
            located.ambiguous[i] = f"{located.names[i]} as {listed[i]!r}", f"as {others[0]!r}, which is also listed"
    for i in guessed & set(located.ambiguous):
        located.names[i] = listed[i]
        del located.ways[i]


class _Finder:
    """Finds single files and lists each folder once.

    Args:
        images_dir: folder of the images.
        annotations_dir: folder of the annotations.
        right: folders in the annotations with images at the listed path: one missing there is not searched elsewhere.
    """

    def __init__(self, images_dir: Path, annotations_dir: Path, right: set[str]) -> None:
        self._images_dir, self._annotations_dir, self._right = str(images_dir), str(annotations_dir), right
        self._real: dict[str, str] = {}
        self._root = os.path.realpath(self._images_dir)
        self._listings: dict[str, set[str]] = {}

    def find(self, name: str) -> list[tuple[str, str]]:
        """Return the matching names and how each was found: none, one, or several if ambiguous."""
        for form, way in path_forms(name):
            for folder in (self._images_dir, self._annotations_dir):
                path = os.path.join(folder, form)
                if self._exists(path):
                    return [(self._name(path), way if folder == self._images_dir else way or ANNOTATIONS)]
        written, last = os.path.split(decode_name(name))
        own = os.path.normpath(os.path.join(self._images_dir, written)) if written in self._right else None
        for key, files, way in ((composed, self._files, NAME), (_fold, self._folded, CASE)):
            found = files.get(key(last), [])
            found = [path for path in found if own in (None, os.path.normpath(os.path.dirname(path)))]
            if found:
                return [(self._name(path), way) for path in found]
        return []

    def _exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._listings:
            self._listings[folder] = set(listing(Path(folder)))
        return name in self._listings[folder]

    def _name(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        target = os.path.join(self._real[folder], name)
        is_inside = target.startswith(os.path.join(self._root, ""))
        return os.path.relpath(target, self._root) if is_inside else target

    @cached_property
    def _paths(self) -> list[str]:
        return list_images(self._images_dir).paths if os.path.isdir(self._images_dir) else []

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        return self._by(composed)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        return self._by(_fold)

    def _by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        files = defaultdict(list)
        for path in self._paths:
            files[key(os.path.basename(path))].append(path)
        return files


def path_forms(name: str) -> Iterator[tuple[str, str]]:
    """Yield a path as written and in the forms that it may stand for, each with how it was derived (first: empty)."""
    yield name, ""
    slashed = name.replace("\\", "/")
    if slashed != name:
        yield slashed, SLASH
    plain = decode_name(name)
    if plain not in (name, slashed):
        yield plain, DECODED


def decode_name(name: str) -> str:
    """Return a path with / between its parts and without URL scheme and encoding."""
    path = name.replace("\\", "/")
    scheme, divider, _ = path.partition("://")
    if divider and len(scheme) > 1 and scheme.isalnum():
        try:
            parts = urlsplit(path)
        except ValueError:  # not a valid URL
            parts = None
        if parts is not None:
            path = parts.path or path
    if _LOCAL_FILES in name:
        path = name.partition(_LOCAL_FILES)[2].partition("&")[0]
    return unquote(path).replace("\\", "/")


def check_files_exist(
    annotations_file: Path, images_dir: Path, file_names: Sequence[str], *, on_bad_image: str = "error"
) -> list[str]:
    """Find all images up front instead of failing mid-epoch; warn if they are not at the listed path.

    Args:
        annotations_file: annotation file or folder.
        images_dir: folder that the names are relative to.
        file_names: names in the annotations.
        on_bad_image: "error", or "skip" to continue without missing images unless all are missing.

    Returns:
        Their paths, relative to `images_dir` or absolute.

    Raises:
        DatasetError: images are missing (the message has their number and the first), or a name matches several files.
    """
    located = locate(file_names, images_dir, annotations_dir=folder_of(annotations_file))
    if located.missing:
        message = (
            f"{annotations_file}: {len(located.missing)} of its {counted(len(file_names), 'image')} "
            f"{are(located.missing)} not in {images_dir}; the first is {file_names[located.missing[0]]!r}"
        )
        if on_bad_image == "error" or len(located.missing) == len(file_names):
            raise DatasetError(f"{message}. Copy them there or {REMEDY}")
        _log.warning("%s; skipped", message)
    refuse_ambiguous(located, annotations_file, file_names)
    if located.ways:
        _log.warning("%s", located.note(annotations_file, file_names))
    return located.names


def refuse_ambiguous(
    located: Located, source: Path, listed: Sequence[str], *, remedy: str = f"Correct its path or {REMEDY}"
) -> None:
    """Reject names that match several files.

    Raises:
        DatasetError: there are such names; the message has the first and both files.
    """
    if located.ambiguous:
        i, (first, second) = next(iter(located.ambiguous.items()))
        more = more_like_it(len(located.ambiguous) - 1)
        raise DatasetError(
            f"{source}: image {listed[i]!r} is not at its listed path and could be {first} or {second}. "
            f"{remedy}.{' ' if more else ''}{more}"
        )


def folder_of(annotations_file: Path) -> Path:
    """Return the folder of an annotation file; a folder of annotation files is returned unchanged."""
    return annotations_file if annotations_file.is_dir() else annotations_file.parent


def with_sizes_of_files(
    sizes_wh: np.ndarray,
    unstated: Sequence[int],
    file_names: Sequence[str],
    images_dir: Path,
    *,
    source: Path,
    on_bad_image: str,
) -> Sizes:
    """Return the sizes of images; those that the annotations omit are read from the image files.

    Args:
        sizes_wh: stated sizes, int64 (n, 2), pixels.
        unstated: positions of images without a stated size.
        file_names: names of all images in the annotations.
        images_dir: folder that they are relative to.
        source: annotation file or folder.
        on_bad_image: see `sizes_of`.

    Raises:
        DatasetError: as for `sizes_of`.
    """
    located = locate([file_names[i] for i in unstated], images_dir, annotations_dir=folder_of(source))
    paths = [str(images_dir / name) for name in located.names]
    found = sizes_of(paths, source=source, on_bad_image=on_bad_image)
    filled = sizes_wh.copy()
    filled[unstated] = found.sizes_wh
    return Sizes(filled, [unstated[i] for i in found.unread], found.note)


def with_images(
    annotations: Annotations, annotations_file: Path, images_dir: Path, *, on_bad_image: str = "error"
) -> Annotations:
    """Return the annotations with the image paths that `check_files_exist` finds.

    Raises:
        DatasetError: as for `check_files_exist`.
    """
    listed = annotations.file_names.tolist()
    names = check_files_exist(annotations_file, images_dir, listed, on_bad_image=on_bad_image)
    if names == listed:
        return annotations
    return annotations._replace(file_names=np.array(names, dtype=np.str_))


def _fold(name: str) -> str:
    return composed(name).casefold()
