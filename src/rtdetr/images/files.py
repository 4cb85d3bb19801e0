"""Which files are images, and which of them a folder holds: one list of suffixes, one way to walk, for every verb."""

import glob
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rtdetr.errors import InputError
from rtdetr.images.sources import FILMS, is_address, refused_address, refused_film, refused_stream
from rtdetr.wording import counted

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .heic .heif .hif .j2k .jfif .jp2 .jpe .jpeg .jpg .jxl .mpo .npy .pbm .pgm .png .pnm .ppm "
    ".tga .tif .tiff .webp".split()
)
SAVED_FORMATS = {  # Pillow's name of the format by suffix, of those that annotated and corrected images are saved in
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_ARCHIVE_LEFTOVERS = "__MACOSX"  # what macOS puts beside the files in an archive


@dataclass
class Listing:
    """Image files of a folder, and what was passed over.

    Attributes:
        paths: the image files, sorted.
        broken_links: links named like images whose targets do not exist, sorted.
        hidden: how many files or folders are hidden, macOS's `._` and `__MACOSX` included.
        others: how many other files there are, by suffix.
        below: how many images are in subfolders that were not asked for.
    """

    paths: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    below: int = 0

    def skipped(self) -> str:
        """What was passed over, as one line; empty if nothing was."""
        parts = []
        if self.broken_links:
            parts.append(f"{counted(len(self.broken_links), 'broken link')} (the first is {self.broken_links[0]})")
        if self.hidden:
            parts.append(counted(self.hidden, "hidden file"))
        if self.others:
            kinds = ", ".join(suffix or "no suffix" for suffix, _ in self.others.most_common(4))
            parts.append(f"{counted(self.others.total(), 'file')} of other kinds ({kinds})")
        if self.below:
            parts.append(f"{counted(self.below, 'image')} in subfolders")
        return ", ".join(parts)


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by the end of its name; hidden ones are none."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: a dot file, or what macOS leaves in archives."""
    return name.startswith(".") or name == _ARCHIVE_LEFTOVERS


def list_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> Listing:
    """Image files of a folder, by suffix; links are followed, each folder is entered once.

    Args:
        folder: where to look.
        recursive: look into the folders in it, too.
    """
    listing, entered = Listing(), set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:  # a link to a folder above, or to one that was seen
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        listing.hidden += sum(map(is_hidden, (*folders, *names)))
        folders[:] = [name for name in folders if not is_hidden(name)]
        if not recursive:
            folders.clear()
        for name in names:
            _sort_in(listing, os.path.join(parent, name), name)
    if not recursive:
        listing.below = len(set(list_images(folder).paths) - set(listing.paths))
    listing.paths.sort()
    listing.broken_links.sort()
    return listing


def images_below(folder: Path) -> list[str]:
    """Paths of all image files in a folder and the folders in it, sorted; broken links are among them."""
    listing = list_images(folder)
    return sorted(listing.paths + listing.broken_links)


def find_images(sources: Iterable[str], *, recursive: bool = False) -> tuple[list[Path], Listing]:
    """Image files of paths, folders and globs, each file once, in order, and what was passed over.

    A path that does not exist is kept, so that it is reported with the files that cannot be read.

    Args:
        sources: files, whatever their suffix; folders, of which images by suffix are taken; globs, in which `**` stands
            for any folders.
        recursive: look into the folders of a folder, too.

    Raises:
        InputError: an address, film, stream or camera, or a folder or glob without images.
    """
    paths: list[str] = []
    skipped = Listing()
    for source in sources:
        _refuse_streams(source)
        if os.path.isdir(source):
            found = list_images(source, recursive=recursive)
        elif os.path.lexists(source) or not glob.has_magic(source):
            paths.append(source)
            continue
        else:
            found = _matching(source)
        if not found.paths:
            raise InputError(_nothing_in(source, found))
        paths += found.paths
        skipped.broken_links += found.broken_links
        skipped.hidden += found.hidden
        skipped.others += found.others
        skipped.below += found.below
    return list(dict.fromkeys(map(Path, paths))), skipped


def _matching(pattern: str) -> Listing:
    """What a glob matches; a folder that links lead to again and again is taken once."""
    found, entered = Listing(), {}
    for match in sorted(glob.glob(pattern, recursive=True), key=lambda match: (match.count(os.sep), match)):
        parent, name = os.path.split(match)
        if os.path.isdir(match) or _ARCHIVE_LEFTOVERS in Path(match).parts:
            continue
        if entered.setdefault(os.path.realpath(parent), parent) == parent:
            _sort_in(found, match, name)
    found.paths.sort()
    return found


def _sort_in(listing: Listing, path: str, name: str) -> None:
    """Count a file where it belongs; hidden ones are counted by the caller."""
    if is_hidden(name):
        return
    if not is_image_name(name):
        listing.others[os.path.splitext(name)[1].lower()] += 1
    elif os.path.islink(path) and not os.path.exists(path):
        listing.broken_links.append(path)
    else:
        listing.paths.append(path)


def _refuse_streams(source: str) -> None:
    if is_address(source):
        raise InputError(refused_address(source))
    if os.path.splitext(source)[1].lower() in FILMS:
        raise InputError(refused_film(source))
    if stream := refused_stream(source):
        raise InputError(stream)


def _nothing_in(source: str, found: Listing) -> str:
    if found.below:
        return (
            f"no image in {source} itself, but {found.below} in its subfolders: add --recursive, or give '{source}/**'"
        )
    skipped = found.skipped()
    return (
        f"no image found in {source}{f' ({skipped})' if skipped else ''}: expected files ending in "
        f"{', '.join(sorted(SUFFIXES))}"
    )
