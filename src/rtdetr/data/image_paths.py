"""Where the image files are that annotations name: paths as other programs and other machines write them.

A name is tried in this order, each form first in the folder of images, then in that of the annotations:

1. as written; this includes whole paths;
2. with / for the backslash of Windows;
3. decoded: %20 for a space and so on, the path in an address such as file:///data/x.png or /data/local-files/?d=x.png;
4. by its last part alone, if the folder of images and those in it have one file of that name, in either Unicode form;
5. the same in any case.

The last two ways look nowhere else if other images are in the folder that the name has: there, this one is missing. One
file for two names would be a guess, and so is one of several files for a name: both are refused. A folder is listed
once and nothing is asked for each image: on a network drive an answer takes milliseconds.
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
BESIDE, SLASH, DECODED, NAME, CASE = (
    "relative to the annotations' own folder",
    "with / for the backslash",
    "by the decoded name",
    "by the last part of the path",
    "by the last part of the path in another case",
)
REMEDY = (
    "give the right folder with --images of 'train', 'evaluate' and 'data check' (for --val-data --val-images; Python: "
    "images=)"
)


class Located(NamedTuple):
    """Where the images of a dataset are.

    names: for each name listed, the file's path relative to the folder of images, or its whole path elsewhere; as
        listed where there is none.
    ways: how those were found that are not where the annotations say, by position.
    missing: positions of those that were not found.
    ambiguous: the two files, or names of one file, between which nothing decides, by position.
    """

    names: list[str]
    ways: dict[int, str]
    missing: list[int]
    ambiguous: dict[int, tuple[str, str]]

    def note(self, source: object, listed: Sequence[str], *, total: int | None = None) -> str:
        """What was done, in one line; nothing where all images are where the annotations say.

        Args:
            source: what names the dataset.
            listed: the names as listed.
            total: how many images the source lists, if these are not all.
        """
        if not self.ways:
            return ""
        first = next(iter(self.ways))
        counts = ", ".join(f"{count} {way}" for way, count in Counter(self.ways.values()).items())
        return (
            f"{source}: {len(self.ways)} of its {counted(total or len(listed), 'image')} {are(self.ways)} not where it "
            f"says and had to be found otherwise: {counts}; the first, {listed[first]!r}, is {self.names[first]}"
        )


def locate(names: Sequence[str], images_dir: Path, *, beside: Path) -> Located:
    """Find the files of images.

    Args:
        names: as the annotations have them.
        images_dir: the folder that they are relative to.
        beside: the folder of the annotations.
    """
    folders = {os.path.dirname(name) for name in names}
    present = {(folder, name) for folder in folders for name in listing(images_dir / folder)}
    absent = [i for i, name in enumerate(names) if os.path.split(name) not in present]
    located = Located(list(names), {}, [], {})
    if not absent:
        return located
    missing = set(absent)
    right = {os.path.dirname(decoded(name)) for i, name in enumerate(names) if i not in missing}
    finder = _Finder(images_dir, beside, right)
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
    """A file that was found by the last part of a path must not be that of another name too."""
    guessed = {i for i, way in located.ways.items() if way in (NAME, CASE)}
    if not guessed:
        return
    names_of = defaultdict(dict[str, int])
    for i, name in enumerate(located.names):
        names_of[os.path.normpath(name)].setdefault(decoded(listed[i]), i)
    for i in sorted(guessed):
        others = [name for name in names_of[os.path.normpath(located.names[i])] if name != decoded(listed[i])]
        if others:
            located.ambiguous[i] = f"{located.names[i]} as {listed[i]!r}", f"as {others[0]!r}, which is listed too"
    for i in guessed & set(located.ambiguous):
        located.names[i] = listed[i]
        del located.ways[i]


class _Finder:
    """Looks for single files, listing each folder once.

    Args:
        images_dir: the folder of images.
        beside: the folder of the annotations.
        right: folders as the annotations have them that hold images where they say: one missing there is no other's.
    """

    def __init__(self, images_dir: Path, beside: Path, right: set[str]) -> None:
        self._images_dir, self._beside, self._right = str(images_dir), str(beside), right
        self._real: dict[str, str] = {}
        self._root = os.path.realpath(self._images_dir)
        self._listings: dict[str, set[str]] = {}

    def find(self, name: str) -> list[tuple[str, str]]:
        """Names to use and ways they were found; none, one, or several between which nothing decides."""
        for form, way in forms(name):
            for folder in (self._images_dir, self._beside):
                path = os.path.join(folder, form)
                if self._exists(path):
                    return [(self._name(path), way if folder == self._images_dir else way or BESIDE)]
        written, last = os.path.split(decoded(name))
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


def forms(name: str) -> Iterator[tuple[str, str]]:
    """A path as written and in the forms that it may stand for, each with what was done to it; nothing at first."""
    yield name, ""
    slashed = name.replace("\\", "/")
    if slashed != name:
        yield slashed, SLASH
    plain = decoded(name)
    if plain not in (name, slashed):
        yield plain, DECODED


def decoded(name: str) -> str:
    """A path with / between its parts and without what addresses add to it."""
    path = name.replace("\\", "/")
    scheme, divider, _ = path.partition("://")
    if divider and len(scheme) > 1 and scheme.isalnum():
        try:
            parts = urlsplit(path)
        except ValueError:  # an address that is none
            parts = None
        if parts is not None:
            path = parts.path or path
    if _LOCAL_FILES in name:
        path = name.partition(_LOCAL_FILES)[2].partition("&")[0]
    return unquote(path).replace("\\", "/")


def check_files_exist(
    annotations_file: Path, images_dir: Path, file_names: Sequence[str], *, on_bad_image: str = "error"
) -> list[str]:
    """Find the images now, and not in the middle of an epoch; says so if they are not where the annotations say.

    Args:
        annotations_file: the file, or folder of files, that names the images.
        images_dir: the folder that they are relative to.
        file_names: as the annotations have them.
        on_bad_image: "error", or "skip" to go on without images that are not there, unless that is all of them.

    Returns:
        Their paths, relative to `images_dir` or whole.

    Raises:
        DatasetError: images are missing, of which it says how many and names one; or several files could be meant.
    """
    located = locate(file_names, images_dir, beside=folder_of(annotations_file))
    if located.missing:
        told = (
            f"{annotations_file}: {len(located.missing)} of its {counted(len(file_names), 'image')} "
            f"{are(located.missing)} not in {images_dir}, the first is {file_names[located.missing[0]]!r}"
        )
        if on_bad_image == "error" or len(located.missing) == len(file_names):
            raise DatasetError(f"{told}. Copy them there or {REMEDY}")
        _log.warning("%s; skipped", told)
    refuse_ambiguous(located, annotations_file, file_names)
    if located.ways:
        _log.warning("%s", located.note(annotations_file, file_names))
    return located.names


def refuse_ambiguous(
    located: Located, source: Path, listed: Sequence[str], *, remedy: str = f"Correct its path or {REMEDY}"
) -> None:
    """Refuse names that several files could be.

    Raises:
        DatasetError: there are any; the message has the first with both files.
    """
    if located.ambiguous:
        i, (first, second) = next(iter(located.ambiguous.items()))
        more = more_like_it(len(located.ambiguous) - 1)
        raise DatasetError(
            f"{source}: image {listed[i]!r} is not there and could be {first} or {second}. "
            f"{remedy}.{' ' if more else ''}{more}"
        )


def folder_of(annotations_file: Path) -> Path:
    """The folder of an annotation file, or the one of annotation files itself."""
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
    """The sizes of images, those that the annotations do not state read from the files.

    Args:
        sizes_wh: as stated, int64 (n, 2), pixels.
        unstated: positions of the others.
        file_names: of all, as the annotations have them.
        images_dir: the folder that they are relative to.
        source: the annotation file, or folder of files.
        on_bad_image: see `sizes_of`.

    Raises:
        DatasetError: as `sizes_of`.
    """
    located = locate([file_names[i] for i in unstated], images_dir, beside=folder_of(source))
    paths = [str(images_dir / name) for name in located.names]
    found = sizes_of(paths, source=source, on_bad_image=on_bad_image)
    filled = sizes_wh.copy()
    filled[unstated] = found.sizes_wh
    return Sizes(filled, [unstated[i] for i in found.unread], found.note)


def with_images(
    annotations: Annotations, annotations_file: Path, images_dir: Path, *, on_bad_image: str = "error"
) -> Annotations:
    """The annotations with the paths of the images as `check_files_exist` finds them.

    Raises:
        DatasetError: as there.
    """
    listed = annotations.file_names.tolist()
    names = check_files_exist(annotations_file, images_dir, listed, on_bad_image=on_bad_image)
    if names == listed:
        return annotations
    return annotations._replace(file_names=np.array(names, dtype=np.str_))


def _fold(name: str) -> str:
    return composed(name).casefold()
