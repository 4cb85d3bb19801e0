"""Checks of images, classes and splits; `box_checks.py` has those of boxes.

Each function examines a `Survey` and adds findings to a `Collector`.
"""

import os
from operator import attrgetter
from pathlib import Path

import numpy as np

from rtdetr.config import SizeHW
from rtdetr.data.doctor.findings import Example
from rtdetr.data.doctor.survey import Collector, Position, Survey
from rtdetr.data.image_files import is_image_name, listing
from rtdetr.data.label_files import MAX_UNLABELED, LabelFiles
from rtdetr.data.label_rows import has_objects
from rtdetr.data.records import Problem
from rtdetr.wording import counted, listed

_MAX_STRETCH = 2.0
_TURNS = {2: "mirrored", 3: "upside down", 4: "upside down and mirrored"}  # per EXIF orientation


def check_entries(survey: Survey, found: Collector) -> None:
    """Add entries that the readers could not use, and splits without content."""
    for p, part in enumerate(survey.parts):
        for problem in filter(attrgetter("is_shown"), part.problems):
            found.add_one(problem.kind, _example(problem, p, part.name))
        empty = Example(part.name, part.source.name, "", "has none")
        if not part.images:
            found.add_one("no-image", empty)
        elif part.iscrowd.all():  # also if there is no box at all
            found.add_one("no-object", empty)
        if not part.categories:
            found.add_one("no-class", empty)


def _example(problem: Problem, part: int, name: str) -> Example:
    images = () if problem.image is None else ((part, problem.image),)
    return Example(name, problem.file, problem.annotation, problem.detail, images)


def check_classes(survey: Survey, found: Collector) -> None:
    """Add class lists that differ, and classes without objects."""
    names = [{category.name for category in part.categories} for part in survey.parts]
    union = sorted(set().union(*names))
    for part, own in zip(survey.parts, names, strict=True):
        absent = [name for name in union if name not in own]
        if own and absent:
            detail = f"lacks {len(absent)} of the {counted(len(union), 'class')}: {listed(absent)}"
            found.add_one("class-lists-differ", Example(part.name, part.source.name, "", detail))
    counts = [objects_by_class(survey, part) for part in range(len(survey.parts))]
    totals = {name: sum(count.get(name, 0) for count in counts) for name in union}
    for name, total in totals.items():
        if not total:
            found.add_one("unused-class", Example("all", "", f"class {name!r}", "is unused"))
    for split, kind in (("train", "untrained-class"), ("val", "unmeasured-class")):
        own = [count for part, count in zip(survey.parts, counts, strict=True) if part.split == split]
        if split == "val" and not any(map(any, (count.values() for count in own))):
            continue  # it is empty, which `check_entries` reports
        for name, total in totals.items():
            if own and total and not any(count.get(name) for count in own):
                detail = f"has none here and {total} in other splits"
                found.add_one(kind, Example(split, "", f"class {name!r}", detail))


def objects_by_class(survey: Survey, part: int) -> dict[str, int]:
    """Return the number of boxes per class in a split, without crowd regions."""
    record = survey.parts[part]
    used = record.labels[(record.labels >= 0) & ~record.iscrowd]
    counts = np.bincount(used, minlength=len(record.categories))
    return {category.name: int(count) for category, count in zip(record.categories, counts, strict=True)}


def check_files(survey: Survey, found: Collector) -> None:
    """Add missing and corrupt images, sizes that differ from the annotated ones, EXIF rotation, and stray labels."""
    for p, (part, facts) in enumerate(zip(survey.parts, survey.facts, strict=True)):

        def examples(kind: str, images: list[int], detail: str, p: int = p) -> None:
            def example(image: int) -> Example:
                one, stated = survey.facts[p][image], survey.parts[p].images[image].size_wh or (0, 0)
                text = detail.format(
                    error=one.error,
                    stated=_size(stated),
                    stored=_size(one.stored_wh),
                    upright=_size(one.upright_wh),
                    turn=_TURNS.get(one.orientation, "rotated by 90 degrees"),
                )
                return survey.example((p, image), text)

            found.add(kind, images, example)

        images = range(len(part.images))
        examples("missing-file", [i for i in images if facts[i].missing and not part.images[i].is_ambiguous], "{error}")
        examples("corrupt-image", [i for i in images if facts[i].error and not facts[i].missing], "{error}")
        usable = [i for i in images if facts[i].usable]
        as_seen = {i for i in usable if part.images[i].size_wh in (None, facts[i].upright_wh)}
        as_stored = {i for i in usable if part.images[i].size_wh == facts[i].stored_wh} - as_seen
        turned = [i for i in sorted(as_seen) if facts[i].orientation > 1]
        quarter = [i for i in turned if facts[i].stored_wh != facts[i].upright_wh]
        same = [i for i in turned if facts[i].stored_wh == facts[i].upright_wh]
        neither = [i for i in usable if i not in as_seen and i not in as_stored]
        examples("exif-rotation", sorted(as_stored), "is annotated as {stated}, but is {upright} after EXIF rotation")
        examples("exif-tag", quarter, "is {stored} in the file and {upright} after EXIF rotation")
        examples("exif-tag", same, "of {stored} is {turn} in the file")
        examples("size-mismatch", neither, "is annotated as {stated}, but the file has {upright}")
    for path in labels_without_image(survey):
        found.add_one("label-without-image", Example("all", path, "", "has no image"))


def check_labels(survey: Survey, found: Collector, *, is_whole: bool) -> None:
    """Add images without any label: a few count as background, more as a mistake.

    Args:
        survey: the dataset.
        found: collects the findings.
        is_whole: whether all annotations of the dataset were read, not only single files.
    """
    for p in range(len(survey.parts)):
        found.add("unlabeled-image", unlabeled(survey, p), lambda i, p=p: survey.example((p, i), "has no label file"))
    extra = unlisted(survey)
    bare = {path for path in extra if not any(part.is_annotated(str(path)) for part in survey.parts)}
    listed = {image.path for part in survey.parts for image in part.images}
    is_much = is_whole and len(bare) > MAX_UNLABELED * (len(listed) + len(bare))
    for path in extra:
        if is_much and path in bare:
            found.add_one("unlabeled-image", Example("all", str(path), "", "has no annotations, and no split uses it"))
        else:
            found.add_one("unlisted-file", Example("all", str(path), "", "is not listed"))


def unlabeled(survey: Survey, part: int) -> list[int]:
    """Return the images of a split without a label file, usual or misplaced, if there are more than a few."""
    images = survey.parts[part].images
    missing = [i for i, image in enumerate(images) if not image.has_label]
    if len(missing) <= MAX_UNLABELED * len(images):
        return []
    return [i for i in missing if not images[i].misplaced_label]


def unlisted(survey: Survey) -> list[Path]:
    """Return image files in the folders of listed images that no split lists."""
    listed = {os.path.normpath(image.path) for part in survey.parts for image in part.images}
    folders = sorted({os.path.dirname(path) for path in listed})
    present = (os.path.join(folder, name) for folder in folders for name in sorted(listing(Path(folder))))
    others = (path for path in present if is_image_name(path) and path not in listed)
    return [Path(path) for path in others if not os.path.basename(path).startswith(".")]


def labels_without_image(survey: Survey) -> list[str]:
    """Return nonempty YOLO label files without an image, neither listed nor in the corresponding folder."""
    parts = [part for part in survey.parts if part.format == "yolo"]
    used = {os.path.dirname(image.path) for part in parts for image in part.images}
    finder = LabelFiles()
    folders = finder.with_subfolders(folder for part in parts for folder in part.folders)
    folders |= {place for folder in used for place in finder.places(folder)}
    reported = {image.misplaced_label for part in survey.parts for image in part.images}
    files = (path for folder in sorted(folders) for path in finder.without_image(folder) if path not in reported)
    return [path for path in files if has_objects(path)]


def check_contents(survey: Survey, found: Collector, *, size_hw: SizeHW, queries: int) -> None:
    """Add images without objects, with too many, and with a shape that the resize distorts."""
    for p, part in enumerate(survey.parts):
        objects = np.bincount(part.box_images[~part.iscrowd], minlength=len(part.images))
        boxes = np.bincount(part.box_images, minlength=len(part.images))
        reported = {*unlabeled(survey, p), *(i for i, image in enumerate(part.images) if image.misplaced_label)}
        empty = [i for i in np.flatnonzero(boxes == 0).tolist() if i not in reported]
        found.add("empty-image", empty, lambda i, p=p: survey.example((p, i), "has no box"))
        found.add(
            "too-many-objects",
            np.flatnonzero(objects > queries),
            lambda i, p=p, n=objects: survey.example(
                (p, i), f"has {counted(n[i], 'object')}, but the model has {counted(queries, 'query')}"
            ),
        )
        known = (survey.sizes_wh[p] > 0).all(1)
        width, height = np.maximum(survey.sizes_wh[p], 1).T
        shape = width / height * size_hw[0] / size_hw[1]
        stretch = np.maximum(shape, 1 / shape)
        found.add(
            "distorted-image",
            np.flatnonzero(known & (stretch > _MAX_STRETCH)),
            lambda i, p=p, s=stretch: survey.example(
                (p, i), f"of {_size(survey.sizes_wh[p][i])} is stretched {s[i]:.1f} times"
            ),
        )


def check_copies(survey: Survey, found: Collector) -> None:
    """Add images that occur twice in a split, or in two splits."""
    for group in survey.same:
        _add_copies(survey, found, group, kinds=("same-image", "leak"), words="is the same as")
    for group in survey.near:
        kinds = ("near-same-image", "near-leak")
        _add_copies(survey, found, group, kinds=kinds, words="is nearly the same as", other_files=True)


def _add_copies(
    survey: Survey,
    found: Collector,
    group: list[Position],
    *,
    kinds: tuple[str, str],
    words: str,
    other_files: bool = False,
) -> None:
    """Add the pairs of a group, each further image once; with `other_files`, only pairs of different files."""
    digests = {position: survey.facts[position[0]][position[1]].digest for position in group}
    splits = [part.split for part in survey.parts]
    first_of_split: dict[str, Position] = {}
    for position in group:
        first = first_of_split.setdefault(splits[position[0]], position)
        if first != position and (not other_files or digests[position] != digests[first]):
            found.add_one(kinds[0], survey.example(position, f"{words} {survey.file_name(first)}", also=first))
    first_split, *others = first_of_split  # in the order of the splits, as the positions of a group are
    for split in others:
        pairs = ((a, b) for a in group if splits[a[0]] == first_split for b in group if splits[b[0]] == split)
        pair = next(((a, b) for a, b in pairs if not other_files or digests[a] != digests[b]), None)
        if pair:
            found.add_one(kinds[1], survey.example(pair[0], f"{words} {survey.file_name(pair[1])}", also=pair[1]))


def _size(size_wh: tuple[int, int] | np.ndarray) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
