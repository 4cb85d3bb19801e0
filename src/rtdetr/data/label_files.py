"""Match annotation files with images: one rule for the YOLO and VOC readers and for the data doctor.

The labels of images/train/a.png are searched for in these usual places; the first that exists wins:

1. labels/train/a.txt: a folder `images` of the path is replaced by `labels`; of several, the last one is tried first;
2. a.txt next to the image.

In both, a.png.txt is also accepted, the suffix and the folders can have any case, and names can have either Unicode
form (some systems decompose "é" into two characters). The case of the name itself must match.

A label file is *misplaced* if it has the name of an image without labels, ignoring case, belongs to no image file, and
is in one of the first 1,000 folders, breadth first, below the folder of the dataset. Hidden folders and `runs`, the
results of training and detection, are skipped.

Each folder is listed once, and there are no queries per image: on a network drive each takes milliseconds.
"""

import errno
import functools
import itertools
import os
import unicodedata
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import cached_property

from rtdetr.data.image_files import is_image_name
from rtdetr.errors import DatasetError
from rtdetr.images.files import is_hidden

MAX_UNLABELED = 0.05  # share of images without a label file that count as background without a warning
_FEW = 100  # files that are read before their images are searched for
_MAX_FOLDERS = 1000  # to search for labels in unusual places
_RESULTS = "runs"
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
_IMAGES, _LABELS = "images", "labels"
_USUAL_FILES = (".txt", ".xml", ".jpg", ".png")


class Listing:
    """The names in a folder; empty if it does not exist.

    Raises:
        DatasetError: the folder exists but cannot be listed.
    """

    def __init__(self, folder: str) -> None:
        self._entries: list[os.DirEntry[str]] = []
        self.is_hidden = False  # it may exist, but cannot be listed
        try:
            with os.scandir(folder) as entries:
                self._entries = list(entries)
        except PermissionError:
            self.is_hidden = True
        except OSError as error:  # errors of a network drive must not look like an empty folder
            if error.errno not in _NO_FOLDER:
                raise DatasetError(f"cannot list the folder {folder}: {error.strerror or error}") from None
        self.names = {entry.name for entry in self._entries}

    @cached_property
    def _by_key(self) -> dict[str, str]:
        # for most names, name and key are the same
        irregular = [name for name in self.names if not (name.isascii() and name[-len(".txt") :].islower())]
        return {_key(name): name for name in sorted(irregular, reverse=True)}

    @cached_property
    def _by_fold(self) -> dict[str, list[str]]:
        names = defaultdict(list)
        for name in sorted(self.names):
            names[_fold(name)].append(name)
        return names

    @cached_property
    def label_stems(self) -> set[str]:
        """Composed names without suffix that labels of the images in the folder can have."""
        parts = (composed(name).rpartition(".") for name in self.names)
        images = [(stem, stem + dot + suffix) for stem, dot, suffix in parts if stem and _is_image(suffix)]
        return set(itertools.chain.from_iterable(images))

    @cached_property
    def folders(self) -> list[str]:
        """Sorted names of the visible folders in it, without links."""
        # checking whether an entry is a folder costs a call on some network drives
        may_be = (entry for entry in self._entries if not _is_file_name(entry.name) and not is_hidden(entry.name))
        return sorted(entry.name for entry in may_be if entry.is_dir(follow_symlinks=False))

    def find(self, name: str) -> str | None:
        """Return the name itself, or one that differs only in the case of its suffix or in Unicode form."""
        if name in self.names:
            return name
        key = _key(name)
        return key if key in self.names else self._by_key.get(key)

    def same_names(self, name: str) -> list[str]:
        """Return the names that are equal ignoring case and Unicode form, the exact name first."""
        if self.is_hidden:
            return [name]
        return sorted(self._by_fold.get(_fold(name), ()), key=lambda found: found != name)


class LabelFiles:
    """Finds the annotation files of images; caches folder listings.

    Args:
        suffix: suffix of annotation files, lower case.
        images: name of an image folder, lower case.
        labels: name that replaces it in the path of annotation files, lower case.
    """

    def __init__(self, suffix: str = ".txt", *, images: str = _IMAGES, labels: str = _LABELS) -> None:
        self.suffix = suffix
        self._images, self._labels = images, labels
        self._listings: dict[str, Listing] = {}
        self._places: dict[tuple[str, str], list[str]] = {}
        self._found: defaultdict[str, set[str]] = defaultdict(set)  # folder -> names that `of` found there

    def listing(self, folder: str) -> Listing:
        """Return the content of a folder."""
        if folder not in self._listings:
            self._listings[folder] = Listing(folder)
        return self._listings[folder]

    def of(self, image: str) -> str | None:
        """Return the path of the label file of an image, from the first of its usual places that has one."""
        folder, _, name = image.rpartition(os.sep)
        stems = (os.path.splitext(name)[0], name)
        for place in self.places(folder):
            found = self._find(place, stems)
            if found is not None:
                self._found[place].add(found)
                return os.path.join(place, found)
        return None

    def find(self, folder: str, image_name: str) -> str | None:
        """Return the path of the label file in a folder for an image with this name, with or without its suffix."""
        short = [os.path.splitext(image_name)[0]] if is_image_name(image_name) else []
        found = self._find(folder, (*short, image_name))
        return None if found is None else os.path.join(folder, found)

    def _find(self, folder: str, stems: Sequence[str]) -> str | None:
        listing = self.listing(folder)
        for stem in stems:
            found = listing.find(stem + self.suffix)
            if listing.is_hidden and os.path.isfile(os.path.join(folder, stem + self.suffix)):
                found = stem + self.suffix
            if found is not None:
                return found
        return None

    def places(self, folder: str) -> list[str]:
        """Return the usual places of the labels of images in a folder."""
        return [*self._counterparts(folder, self._images, self._labels), folder]

    def without_image(self, folder: str) -> list[str]:
        """Return the paths of files in a folder that have the suffix of label files but belong to no image."""
        return self._unclaimed(folder, self.files_in(folder))

    def _unclaimed(self, folder: str, paths: Sequence[str]) -> list[str]:
        if not paths:
            return []
        claims = [
            self.listing(place).label_stems
            for place in [*self._counterparts(folder, self._labels, self._images), folder]
        ]
        stems = [composed(path[len(folder) :].lstrip(os.sep)[: -len(self.suffix)]) for path in paths]
        return [path for path, stem in zip(paths, stems, strict=True) if not any(stem in known for known in claims)]

    def find_without_image(self, roots: Iterable[str], *, is_label: Callable[[str], bool]) -> Iterator[str]:
        """Yield the paths of label files without an image, from folders where `of` found labels or would search.

        Args:
            roots: image folders, searched with all subfolders, and their label folders, even if the images are gone.
            is_label: returns whether a file is a label file, by its content.
        """
        for place in sorted(self.with_subfolders(roots) | set(self._found)):
            paths = self.files_in(place, but=self._found.get(place, frozenset()))
            are_few = len(paths) <= _FEW  # such as classes.txt, for which no folder of images is worth listing
            stray = self._unclaimed(place, list(filter(is_label, paths)) if are_few else paths)
            yield from stray if are_few else filter(is_label, stray)

    def with_subfolders(self, roots: Iterable[str]) -> set[str]:
        """Return image folders, their label folders, and all subfolders of these."""
        roots = list(roots)
        labels = (place for root in roots for place in self._counterparts(root, self._images, self._labels))
        return set(self._walk(itertools.chain(roots, labels)))

    def find_misplaced(self, images: Sequence[str], roots: Iterable[str]) -> dict[str, str]:
        """Return, per image without a label, a file with its name that belongs to no other image.

        Args:
            images: paths of images for which `of` finds nothing.
            roots: folders to search, with subfolders.
        """
        wanted = defaultdict(list)
        for image in images:
            for stem in label_stems(image):
                wanted[_fold(stem)].append(image)
        found: dict[str, str] = {}
        for folder in self._walk(roots) if images else ():
            for path in self.without_image(folder):
                for image in wanted.get(_fold(os.path.basename(path)[: -len(self.suffix)]), ()):
                    found.setdefault(image, path)
        return found

    def files_in(self, folder: str, *, but: Set[str] = frozenset()) -> list[str]:
        """Return the sorted paths of all annotation files in a folder, except the names in `but`.

        Hidden files, which macOS creates next to others, are skipped.
        """
        names = (name for name in self.listing(folder).names - but if name.lower().endswith(self.suffix))
        return [os.path.join(folder, name) for name in sorted(names) if not is_hidden(name)]

    def _walk(self, roots: Iterable[str]) -> Iterator[str]:
        queue, seen = deque(sorted(roots)), set()
        while queue and len(seen) < _MAX_FOLDERS:
            folder = queue.popleft()
            if folder in seen:
                continue
            seen.add(folder)
            yield folder
            queue += [os.path.join(folder, name) for name in self.listing(folder).folders if name != _RESULTS]

    def _counterparts(self, folder: str, word: str, other: str) -> list[str]:
        """Return the existing folders with one `word` of the path replaced by `other`, ignoring case."""
        if (folder, word) not in self._places:
            parts, places = folder.split(os.sep), []
            for at in reversed(range(len(parts))):
                if parts[at].lower() == word:
                    base = os.sep.join(parts[:at] if at > 1 else [*parts[:at], ""])  # "/", never "", for a drive
                    places += self._like(base or os.curdir, [other, *parts[at + 1 :]])
            self._places[folder, word] = places
        return self._places[folder, word]

    def _like(self, base: str, parts: Sequence[str]) -> list[str]:
        found = [base]
        for part in parts:
            found = [os.path.join(parent, name) for parent in found for name in self.listing(parent).same_names(part)]
        return found


def label_stems(image: str) -> set[str]:
    """Return the composed names without suffix that the annotation file of an image can have: x and x.png."""
    name = composed(os.path.basename(image))
    return {os.path.splitext(name)[0], name}


def usual_label_file(image: str) -> str:
    """Return the first place where the label file of an image is expected, for messages."""
    folder, name = os.path.split(os.path.splitext(image)[0])
    parts = folder.split(os.sep)
    at = next((at for at in reversed(range(len(parts))) if parts[at].lower() == _IMAGES), None)
    if at is not None:
        parts[at] = _LABELS
    return os.sep.join([*parts, name]) + ".txt"


def folders_around(images: Iterable[str]) -> set[str]:
    """Return, per path, the parent of its last `images` folder, or of the image's folder; never a whole drive."""
    around = set()
    for folder in {os.path.dirname(image) for image in images}:
        parts = folder.split(os.sep)
        at = next((at for at in reversed(range(len(parts))) if parts[at].lower() == _IMAGES), len(parts) - 1)
        above = os.sep.join(parts[:at])
        around.add(above if above and os.path.dirname(above) != above else folder)
    return around


def _is_file_name(name: str) -> bool:
    if name.endswith(_USUAL_FILES):  # most, and quickly
        return True
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and (_is_image(suffix) or suffix.lower() in ("txt", "xml", "json"))


@functools.cache
def _is_image(suffix: str) -> bool:
    return is_image_name(f"x.{suffix}")


def _key(name: str) -> str:
    """Return a key that is equal for names that differ only in the case of the suffix or in Unicode form."""
    stem, suffix = os.path.splitext(name)
    return composed(stem) + suffix.lower()


def _fold(name: str) -> str:
    return composed(name).casefold()


def composed(name: str) -> str:
    """Return the name in the composed Unicode form (NFC): one character per accented letter."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
