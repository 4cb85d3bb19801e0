"""Which annotation file belongs to an image: one rule for the readers of YOLO and VOC and for the data doctor.

The usual places of the labels of images/train/a.png are, the first that exists wins:

1. labels/train/a.txt: a folder `images` of the path is called `labels` there; of several, the last one counts first;
2. a.txt beside the image.

In both, a.png.txt is as good as a.txt, the suffix and the folders may be in any case, and names may be in either
Unicode form (some systems decompose "é" into two characters). The name itself must have the same case.

A label file lies *near* an image if its name is the image's, in any case, it belongs to no image file, and it is in
one of the first 1,000 folders, breadth first, below the data set's own folder (`YoloSplit.roots`). Hidden folders and
`runs`, the results of training and detection, are left out.

A folder is listed once and nothing is asked for each image: on a network drive an answer takes milliseconds.
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

MOST_UNLABELED = 0.05  # share of images without a label file that may be meant as background without a word
_FEW = 100  # files that are read before their images are looked for
_MOST_FOLDERS = 1000  # searched for a label that is not in a usual place
_RESULTS = "runs"
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
_IMAGES, _LABELS = "images", "labels"
_USUAL_FILES = (".txt", ".xml", ".jpg", ".png")


class Listing:
    """The names in a folder; none where it does not exist.

    Raises:
        DatasetError: the system fails to list it.
    """

    def __init__(self, folder: str) -> None:
        self._entries: list[os.DirEntry[str]] = []
        self.is_hidden = False  # it may exist, but cannot be listed
        try:
            with os.scandir(folder) as entries:
                self._entries = list(entries)
        except PermissionError:
            self.is_hidden = True
        except OSError as error:  # on a network drive anything can happen, and must not pass for an empty folder
            if error.errno not in _NO_FOLDER:
                raise DatasetError(f"cannot list the folder {folder}: {error.strerror or error}") from None
        self.names = {entry.name for entry in self._entries}

    @cached_property
    def _by_key(self) -> dict[str, str]:
        # of the others, which are most, name and key are the same
        irregular = [name for name in self.names if not (name.isascii() and name[-len(".txt") :].islower())]
        return {_key(name): name for name in sorted(irregular, reverse=True)}

    @cached_property
    def _by_fold(self) -> dict[str, list[str]]:
        names = defaultdict(list)
        for name in sorted(self.names):
            names[_fold(name)].append(name)
        return names

    @cached_property
    def claims(self) -> set[str]:
        """The names, without suffix and composed, that labels of the image files in the folder have."""
        parts = (composed(name).rpartition(".") for name in self.names)
        images = [(stem, stem + dot + suffix) for stem, dot, suffix in parts if stem and _is_image(suffix)]
        return set(itertools.chain.from_iterable(images))

    @cached_property
    def folders(self) -> list[str]:
        """Names of the visible folders in it, links left out, sorted."""
        # to ask whether an entry is a folder costs a call on some network drives
        may_be = (entry for entry in self._entries if not _is_file_name(entry.name) and not is_hidden(entry.name))
        return sorted(entry.name for entry in may_be if entry.is_dir(follow_symlinks=False))

    def find(self, name: str) -> str | None:
        """The name itself, or one that differs in the case of its suffix or in its Unicode form."""
        if name in self.names:
            return name
        key = _key(name)
        return key if key in self.names else self._by_key.get(key)

    def alike(self, name: str) -> list[str]:
        """The names that differ in case and Unicode form at most, the name itself first."""
        if self.is_hidden:
            return [name]
        return sorted(self._by_fold.get(_fold(name), ()), key=lambda found: found != name)


class LabelFiles:
    """Finds the annotation files of images; what it has listed once it knows.

    Args:
        suffix: that of annotation files, lower case.
        images: what a folder of images is called, lower case.
        labels: what it is called in the path of its annotation files, lower case.
    """

    def __init__(self, suffix: str = ".txt", *, images: str = _IMAGES, labels: str = _LABELS) -> None:
        self.suffix = suffix
        self._images, self._labels = images, labels
        self._listings: dict[str, Listing] = {}
        self._places: dict[tuple[str, str], list[str]] = {}
        self._found: defaultdict[str, set[str]] = defaultdict(set)  # folder -> names that `of` found there

    def listing(self, folder: str) -> Listing:
        """What is in a folder."""
        if folder not in self._listings:
            self._listings[folder] = Listing(folder)
        return self._listings[folder]

    def of(self, image: str) -> str | None:
        """Path of the label file of an image, in the first of its usual places that has one."""
        folder, _, name = image.rpartition(os.sep)
        stems = (os.path.splitext(name)[0], name)
        for place in self.places(folder):
            found = self._find(place, stems)
            if found is not None:
                self._found[place].add(found)
                return os.path.join(place, found)
        return None

    def find(self, folder: str, image_name: str) -> str | None:
        """Path of the label file that a folder has for an image of this name, which may lack its suffix."""
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
        """The folders where the labels of the images in a folder may be."""
        return [*self._counterparts(folder, self._images, self._labels), folder]

    def without_image(self, folder: str) -> list[str]:
        """Paths of the files in a folder that could be label files by their suffix, but are those of no image."""
        return self._unclaimed(folder, self.files_in(folder))

    def _unclaimed(self, folder: str, paths: Sequence[str]) -> list[str]:
        if not paths:
            return []
        claims = [
            self.listing(place).claims for place in [*self._counterparts(folder, self._labels, self._images), folder]
        ]
        stems = [composed(path[len(folder) :].lstrip(os.sep)[: -len(self.suffix)]) for path in paths]
        return [path for path, stem in zip(paths, stems, strict=True) if not any(stem in known for known in claims)]

    def stray(self, roots: Iterable[str], *, is_label: Callable[[str], bool]) -> Iterator[str]:
        """Paths of the label files that no image has, of those where `of` found some or would look.

        Args:
            roots: folders of images, searched as a whole, and their labels': of one nothing but the labels may be left.
            is_label: tells by its content whether a file is one.
        """
        for place in sorted(self.below(roots) | set(self._found)):
            paths = self.files_in(place, but=self._found.get(place, frozenset()))
            are_few = len(paths) <= _FEW  # such as classes.txt, for which no folder of images is worth listing
            stray = self._unclaimed(place, list(filter(is_label, paths)) if are_few else paths)
            yield from stray if are_few else filter(is_label, stray)

    def below(self, roots: Iterable[str]) -> set[str]:
        """Folders of images, those of their labels, and all folders in these."""
        roots = list(roots)
        labels = (place for root in roots for place in self._counterparts(root, self._images, self._labels))
        return set(self._walk(itertools.chain(roots, labels)))

    def near(self, images: Sequence[str], roots: Iterable[str]) -> dict[str, str]:
        """Of images without a label: the files near them that are named like them and are those of no other image.

        Args:
            images: paths of images that `of` finds nothing for.
            roots: folders to search, with those in them.
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
        """Paths of all annotation files in a folder, sorted, some names left out.

        Hidden ones are left out too, which macOS makes for others.
        """
        names = (name for name in self.listing(folder).names - but if name.lower().endswith(self.suffix))
        return [os.path.join(folder, name) for name in sorted(names) if not is_hidden(name)]

    def _walk(self, roots: Iterable[str]) -> Iterator[str]:
        queue, seen = deque(sorted(roots)), set()
        while queue and len(seen) < _MOST_FOLDERS:
            folder = queue.popleft()
            if folder in seen:
                continue
            seen.add(folder)
            yield folder
            queue += [os.path.join(folder, name) for name in self.listing(folder).folders if name != _RESULTS]

    def _counterparts(self, folder: str, word: str, other: str) -> list[str]:
        """The existing folders with one `word` of the path replaced by the `other`, in any case."""
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
            found = [os.path.join(parent, name) for parent in found for name in self.listing(parent).alike(part)]
        return found


def label_stems(image: str) -> set[str]:
    """What the annotation file of an image may be called, without its suffix and composed: x and x.png."""
    name = composed(os.path.basename(image))
    return {os.path.splitext(name)[0], name}


def usual_label_file(image: str) -> str:
    """Where the label file of an image is first looked for; to be named in messages."""
    folder, name = os.path.split(os.path.splitext(image)[0])
    parts = folder.split(os.sep)
    at = next((at for at in reversed(range(len(parts))) if parts[at].lower() == _IMAGES), None)
    if at is not None:
        parts[at] = _LABELS
    return os.sep.join([*parts, name]) + ".txt"


def folders_around(images: Iterable[str]) -> set[str]:
    """The folder that holds the last `images` of each path, or else the one above the image's; never a whole drive."""
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
    """Equal for names that differ in the case of the suffix or in their Unicode form."""
    stem, suffix = os.path.splitext(name)
    return composed(stem) + suffix.lower()


def _fold(name: str) -> str:
    return composed(name).casefold()


def composed(name: str) -> str:
    """The name in the Unicode form that has one character for each accented letter."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
