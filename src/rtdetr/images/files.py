"""Finding image files in folders: one list of suffixes and one way to walk, for every command."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rtdetr.errors import InputError
from rtdetr.images.sources import VIDEO_SUFFIXES, is_url, stream_message, url_message, video_message
from rtdetr.wording import counted

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .heic .heif .hif .j2k .jfif .jp2 .jpe .jpeg .jpg .jxl .mpo .npy .pbm .pgm .png .pnm .ppm "
    ".tga .tif .tiff .webp".split()
)
SAVED_FORMATS = {  # suffix -> Pillow's format name, for saving annotated and corrected images
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_log = logging.getLogger(__name__)
_ARCHIVE_LEFTOVERS = "__MACOSX"  # folder that macOS adds to archives


@dataclass
class Listing:
    """Image files of a folder, and what was skipped.

    Attributes:
        paths: the image files, sorted.
        broken_links: links with image names and missing targets, sorted.
        hidden: number of hidden files and folders, including macOS's `._` and `__MACOSX`.
        others: number of other files, by suffix.
        below: number of images in subfolders, if these are not searched.
    """

    paths: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    below: int = 0

    def skipped(self) -> str:
        """Summarize what was skipped, on one line; empty if nothing was."""
        parts = []
        if self.broken_links:
            parts.append(f"{counted(len(self.broken_links), 'broken link')} (the first is {self.broken_links[0]})")
        if self.hidden:
            parts.append(counted(self.hidden, "hidden file"))
        if self.others:
            kinds = ", ".join(suffix or "no suffix" for suffix, _ in self.others.most_common(4))
            parts.append(f"{counted(self.others.total(), 'file')} of other types ({kinds})")
        if self.below:
            parts.append(f"{counted(self.below, 'image')} in subfolders")
        return ", ".join(parts)


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by its suffix; hidden files are not."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped: its name starts with a dot, or is that of macOS's folder in archives."""
    return name.startswith(".") or name == _ARCHIVE_LEFTOVERS


def list_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> Listing:
    """List the image files of a folder, by suffix; links are followed, and each folder is entered once.

    Args:
        folder: the folder to search.
        recursive: also search subfolders.
    """
    listing, entered = Listing(), set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:  # a link to a parent folder, or to one that was visited
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        listing.hidden += sum(map(is_hidden, (*folders, *names)))
        folders[:] = [name for name in folders if not is_hidden(name)]
        if not recursive:
            folders.clear()
        for name in names:
            _add_file(listing, os.path.join(parent, name), name)
    if not recursive:
        listing.below = len(set(list_images(folder).paths) - set(listing.paths))
    listing.paths.sort()
    listing.broken_links.sort()
    return listing


def images_below(folder: Path) -> list[str]:
    """Paths of all image files in a folder and its subfolders, including broken links, sorted."""
    listing = list_images(folder)
    return sorted(listing.paths + listing.broken_links)


def find_images(sources: Iterable[str], *, recursive: bool = False) -> list[Path]:
    """Find the image files of paths, folders and globs, each file once, in order; what was skipped is logged.

    A path that does not exist is kept, so that it is reported with the files that cannot be read.

    Args:
        sources: files with any suffix; folders, which are searched for image suffixes; globs, with `**` for any
            subfolders.
        recursive: also search the subfolders of folders.

    Raises:
        InputError: a source is a URL, video, stream or camera, or a folder or glob has no images.
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
    if text := skipped.skipped():
        _log.info("skipped: %s", text)
    return list(dict.fromkeys(map(Path, paths)))


def _matching(pattern: str) -> Listing:
    """List the matches of a glob; a folder that several links lead to is used once."""
    found, entered = Listing(), {}
    for match in sorted(glob.glob(pattern, recursive=True), key=lambda match: (match.count(os.sep), match)):
        parent, name = os.path.split(match)
        if os.path.isdir(match) or _ARCHIVE_LEFTOVERS in Path(match).parts:
            continue
        if entered.setdefault(os.path.realpath(parent), parent) == parent:
            _add_file(found, match, name)
    found.paths.sort()
    return found


def _add_file(listing: Listing, path: str, name: str) -> None:
    """Add a file to a listing; hidden files are counted by the caller."""
    if is_hidden(name):
        return
    if not is_image_name(name):
        listing.others[os.path.splitext(name)[1].lower()] += 1
    elif os.path.islink(path) and not os.path.exists(path):
        listing.broken_links.append(path)
    else:
        listing.paths.append(path)


def _refuse_streams(source: str) -> None:
    if is_url(source):
        raise InputError(url_message(source))
    if os.path.splitext(source)[1].lower() in VIDEO_SUFFIXES:
        raise InputError(video_message(source))
    if stream := stream_message(source):
        raise InputError(stream)


def _nothing_in(source: str, found: Listing) -> str:
    if found.below:
        return (
            f"no image in {source} itself, but {found.below} in its subfolders: add --recursive, or pass '{source}/**'"
        )
    skipped = found.skipped()
    return (
        f"no image found in {source}{f' ({skipped})' if skipped else ''}: expected files ending in "
        f"{', '.join(sorted(SUFFIXES))}"
    )
