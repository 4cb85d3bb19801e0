"""Find and read every split of a dataset in any format, without rejecting errors."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rtdetr.data.doctor.findings import Example
from rtdetr.data.doctor.traces import find_trace, real_files
from rtdetr.data.image_paths import folder_of, locate
from rtdetr.data.open import find_dataset
from rtdetr.data.records import SPLIT_NAMES, Found, Part
from rtdetr.data.yolo_files import dataset_root
from rtdetr.errors import ConfigError, DatasetError, MissingFolderError, MissingSplitError
from rtdetr.yaml_files import YAML_SUFFIXES

_log = logging.getLogger(__name__)


def find_parts(sources: list[Path], *, images: Path | None) -> tuple[list[Part], list[tuple[str, Example]]]:
    """Read all splits of the sources: a folder or YOLO file can have several, any other file is one.

    Returns:
        The splits, train before val before test; and per split that exists or is named but cannot be read, a kind of
        finding and an example.

    Raises:
        DatasetError: a source has no split at all, or a file is not in the expected format at all.
        ConfigError: there is no source, or one image folder for several sources.
    """
    if not sources:
        raise ConfigError("expected a folder or file to examine, got none")
    if images is not None and len(sources) > 1:
        raise ConfigError(
            f"--images applies to one dataset only, but {len(sources)} are given; put the images of each in a usual "
            "place"
        )
    parts, broken, missing, used = [], [], [], []
    for source in sources:
        splits, problems, absent = _splits(source, images)
        parts += [_read(found, name) for name, found in splits]
        broken += [(_kind(split, problem), Example(split, "", "", str(problem))) for split, problem in problems]
        missing += [(source, split, error) for split, error in absent.items()]
        used += [file for _, found in splits for file in found.inputs]
    used += [image.path for part in parts for image in part.images]
    unread = _unread(missing, around=[part.images_dir for part in parts], used=real_files(used))
    broken += [("unreadable-split", example) for example in unread]
    unknown = [part for part in parts if part.split not in SPLIT_NAMES]
    if len(unknown) == 1 and all(part.split != "train" for part in parts):
        unknown[0].split = "train"
    order = [*SPLIT_NAMES]
    parts.sort(key=lambda part: order.index(part.split) if part.split in order else len(order))
    names = Counter(part.name for part in parts)
    seen: Counter[str] = Counter()
    for part in parts:
        seen[part.name] += 1
        if names[part.name] > 1:
            part.name = f"{part.name}-{seen[part.name]}"
    return parts, broken


def _kind(split: str, problem: DatasetError) -> str:
    """Return the kind of finding; a missing test split is only a note, because training does not need it."""
    return "missing-test" if split == "test" and isinstance(problem, MissingFolderError) else "unreadable-split"


class _Splits(NamedTuple):
    """The splits of one source, and errors of the others.

    broken: splits that are named but cannot be found as described.
    missing: splits without annotations in a usual place.
    """

    found: list[tuple[str, Found]]
    broken: list[tuple[str, DatasetError]]
    missing: dict[str, MissingSplitError]


def _splits(source: Path, images: Path | None) -> _Splits:
    if source.is_file() and source.suffix.lower() not in YAML_SUFFIXES:
        return _Splits([(_name_of(source), find_dataset(source, split="train", images=images))], [], {})
    splits = _Splits([], [], {})
    for split in SPLIT_NAMES:
        try:
            splits.found.append((split, find_dataset(source, split=split, images=images)))
        except MissingSplitError as error:
            splits.missing[split] = error
        except DatasetError as error:
            splits.broken.append((split, error))
    if not splits.found:
        raise splits.broken[0][1] if splits.broken else DatasetError(str(splits.missing["train"]))
    return splits


def _unread(missing: list[tuple[Path, str, MissingSplitError]], *, around: list[Path], used: set[str]) -> list[Example]:
    """Return the missing splits of which there are traces; log the others."""
    unread = []
    for source, split, error in missing:
        roots = [source] if source.is_dir() else dict.fromkeys([source.parent, dataset_root(source)])
        traces = (find_trace(split, root, around=around, used=used) for root in roots)
        if trace := next(filter(None, traces), ""):
            unread.append(Example(split, "", "", f"{trace}, but {error}"))
        elif split != "test":  # few datasets have one
            _log.warning("split %r is not examined: %s", split, error)
    return unread


def _name_of(file: Path) -> str:
    """Return the name of the split of a single annotation file."""
    stem = file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")
    for split, names in SPLIT_NAMES.items():
        if stem.rstrip("0123456789") in names:
            return split
    return stem


def _read(found: Found, name: str) -> Part:
    part = found.read()
    part.name = part.split = name
    part.images = [image._replace(path=part.images_dir / image.file_name) for image in part.images]
    if not part.are_files:
        _locate(part)
    return part


def _locate(part: Part) -> None:
    """Set the paths of images that are not at the listed path, as training does."""
    listed = [image.file_name for image in part.images]
    located = locate(listed, part.images_dir, annotations_dir=folder_of(part.source))
    for i, way in located.ways.items():
        name = located.names[i]
        part.problem("other-path", file=listed[i], detail=f"is read from {name}, found {way}", image=i)
        part.images[i] = part.images[i]._replace(file_name=name, path=part.images_dir / name)
    for i, (first, second) in located.ambiguous.items():
        part.images[i] = part.images[i]._replace(is_ambiguous=True)
        detail = f"is not at its listed path and could be {first} or {second}"
        part.problem("ambiguous-file", file=listed[i], detail=detail, image=i)
