"""Write a cleaned copy of an examined dataset in COCO format: `fix(report, OUT)`.

The copy can be read with `open_dataset` and has OUT/annotations/SPLIT.json and OUT/images/SPLIT/ per split. All changes
are returned and listed in OUT/changes.txt. The original is not modified.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.data.annotations import LARGEST
from rtdetr.data.coco_files import write_coco
from rtdetr.data.doctor.box_checks import bad_boxes, overhang, repeated_boxes
from rtdetr.data.doctor.checks import labels_without_image, unlabeled, unlisted
from rtdetr.data.doctor.data_loss import Chosen, refuse_loss
from rtdetr.data.doctor.findings import KINDS, printable
from rtdetr.data.doctor.images import ImageFacts
from rtdetr.data.doctor.report import Report
from rtdetr.data.doctor.survey import Position, Survey
from rtdetr.data.formats import FORMATS
from rtdetr.data.records import SPLIT_NAMES, Part
from rtdetr.data.yolo_files import dataset_root
from rtdetr.errors import DatasetError
from rtdetr.images import open_image
from rtdetr.images.files import SAVED_FORMATS

_SAVED_MODES = {  # images in other modes are saved as RGB
    "JPEG": {"L", "RGB", "CMYK"},
    "PNG": {"1", "L", "LA", "P", "I", "I;16", "RGB", "RGBA"},
    "WEBP": {"RGB", "RGBA"},
    "BMP": {"L", "RGB"},
}
_SAVED_SUFFIXES = {suffix: kind for suffix, kind in SAVED_FORMATS.items() if kind in _SAVED_MODES}
_ROUNDING = 0.01  # pixels; smaller clips are not listed


class Change(NamedTuple):
    """A change in the copy: the kind of finding, and what was changed and where."""

    kind: str
    text: str


def fix(report: Report, out: str | os.PathLike[str], *, allow_loss: bool = False) -> list[Change]:
    """Write a cleaned copy to a new folder.

    Omitted are boxes without an area inside their image, boxes of unknown classes, repeated boxes, missing and corrupt
    images, images whose size differs from the annotations, and duplicate images; of an image in two splits, the one in
    the earlier split (train, then val). All other boxes are clipped to the image. Images with an EXIF rotation are
    rotated upright together with their boxes. Boxes, areas and crowd flags are kept, outlines and other keys are not;
    annotations are renumbered. Other findings are not fixed.

    Args:
        report: report from `check`.
        out: folder to create, outside the data; it can exist if it is empty.
        allow_loss: write the copy even if a split, or more than a few percent of its images or boxes, would be omitted;
            duplicate images and boxes do not count.

    Raises:
        DatasetError: `out` has content, is inside the data or cannot be written; several parts belong to one split, or
            to unknown ones; too much would be omitted; or nothing is left to write.
    """
    target, parts = Path(out).resolve(), report.survey.parts
    _refuse(target, report)
    changes = [Change(f.kind, e.line()) for f in report.findings if f.kind == "unreadable-split" for e in f.examples]
    if changes and not allow_loss:
        raise DatasetError(
            f"{changes[0].text}. The cleaned copy would lack this split; correct it, or accept the loss with "
            "--allow-loss (Python: allow_loss=True); nothing was written"
        )
    noted = [(part, problem) for part in parts for problem in (*part.problems, *part.changes) if problem.is_shown]
    changes += [
        Change(problem.kind, " ".join(filter(None, (f"{part.name}:", problem.file, problem.annotation))))
        for part, problem in noted
        if problem.kind not in ("ambiguous-file", "misplaced-label") or problem.image is None  # listed with the images
    ]
    stray = labels_without_image(report.survey)
    changes += [Change("label-without-image", path) for path in stray]
    if report.is_whole:
        changes += [Change("unlisted-file", str(path)) for path in unlisted(report.survey)]
    reasons = _choose_images(report.survey, changes)
    kept_images = [_kept(part, why) for part, why in zip(parts, reasons, strict=True)]
    changes += _rotated_images(report.survey, kept_images) + _merged_classes(report.survey)
    chosen = [_choose_boxes(report.survey, part, reasons[part], changes) for part in range(len(parts))]
    ids = _category_ids(report.survey)
    _refuse_empty(parts, chosen)
    if not allow_loss:
        refuse_loss(report.survey, chosen, num_stray_labels=len(stray))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        for part in range(len(parts)):
            images = np.flatnonzero(chosen[part].images)
            _write_split(report.survey, part, images, chosen[part].boxes, ids, partial)
        listed = "".join(f"{change.kind}: {printable(change.text)}\n" for change in changes)
        (partial / "changes.txt").write_text(listed or "nothing was changed\n", encoding="utf-8")
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise DatasetError(f"cannot write {target}: {error.strerror or error}. Choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return changes


def summary(changes: list[Change]) -> str:
    """Return one line per kind of change."""
    counts = Counter(change.kind for change in changes)
    return "\n".join(f"  {KINDS[kind].title}: {counts[kind]}, {KINDS[kind].fixed}" for kind in KINDS if counts[kind])


def _refuse(target: Path, report: Report) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        state = "has content" if target.is_dir() else "is a file"
        raise DatasetError(f"expected a new or empty folder for the cleaned copy, but {target} {state}; choose another")
    for split, count in Counter(part.split for part in report.survey.parts).items():
        if count > 1:
            raise DatasetError(
                f"expected one {split!r} split to copy, got {count}; copy them one at a time, or merge them"
            )
        if split not in SPLIT_NAMES:
            raise DatasetError(f"expected splits named train, val or test to copy, got {split!r}; rename its file")
    folders = {path for path in report.data if path.is_dir()}
    for part, facts in zip(report.survey.parts, report.survey.facts, strict=True):
        # the images of a YOLO list can be far apart, and their common folder can contain much else
        folders |= {_root_of(part.source), dataset_root(part.source) if part.format == "yolo" else part.images_dir}
        folders |= {image.path.parent for image, one in zip(part.images, facts, strict=True) if one.usable}
    for folder in folders:
        if target.is_relative_to(folder.resolve()):
            raise DatasetError(f"expected a folder outside the data, but {target} is inside {folder}; choose another")


def _root_of(source: Path) -> Path:
    """Return the folder of the dataset that a folder or file of annotations belongs to."""
    folder = source if source.is_dir() else source.parent
    if folder.parts[-2:] == ("ImageSets", "Main"):
        return folder.parents[1]
    return folder.parent if folder.name == "annotations" else folder


def _refuse_empty(parts: list[Part], chosen: list[Chosen]) -> None:
    for part, one in zip(parts, chosen, strict=True):
        what = "has no class" if not part.categories else "" if one.images.any() else "has no valid image"
        if what:
            reasons = ", ".join(f"{KINDS[kind].title}: {count}" for kind, count in Counter(one.why.values()).items())
            raise DatasetError(
                f"{part.source}: the split {part.name!r} {what}{f' ({reasons})' if reasons else ''}, so it cannot be "
                "copied. Correct it, or examine the other splits without it"
            )


def _kept(part: Part, why: dict[int, str]) -> np.ndarray:
    kept = np.ones(len(part.images), dtype=bool)
    kept[list(why)] = False
    return kept


def _choose_images(survey: Survey, changes: list[Change]) -> list[dict[int, str]]:
    """Return the images to omit per split, each with the kind of finding that is the reason."""
    why: list[dict[int, str]] = [{} for _ in survey.parts]
    boxes_of = _boxes_of_images(survey)

    def omit(kind: str, position: Position) -> None:
        part, image = position
        why[part][image] = kind
        changes.append(Change(kind, survey.file_name(position) + boxes_of(position)))

    for p, (part, facts) in enumerate(zip(survey.parts, survey.facts, strict=True)):
        no_label = set(unlabeled(survey, p))
        for i, (image, one) in enumerate(zip(part.images, facts, strict=True)):
            if image.misplaced_label or i in no_label:
                omit("misplaced-label" if image.misplaced_label else "unlabeled-image", (p, i))
            elif not image.is_label_read:
                why[p][i] = "unreadable-entry"  # its problem is already listed
            elif not one.usable:
                missing = "ambiguous-file" if image.is_ambiguous else "missing-file"
                omit(missing if one.missing else "corrupt-image", (p, i))
            elif image.size_wh not in (None, one.upright_wh, one.stored_wh):
                omit("size-mismatch", (p, i))
    for group in survey.same:
        best: dict[int, Position] = {}
        for p, i in group:
            if i in why[p]:
                continue
            if p in best:
                worse, best[p] = sorted([best[p], (p, i)], key=survey.num_boxes)  # stable: the later of equals stays
                omit("same-image", worse)
            else:
                best[p] = (p, i)
        for p in sorted(best)[:-1]:
            omit("leak", best[p])
    return why


def _boxes_of_images(survey: Survey) -> Callable[[Position], str]:
    """Return a function that names the boxes of an image, which are omitted with it."""
    orders = [np.argsort(part.box_images, kind="stable") for part in survey.parts]
    images = [part.box_images[order] for part, order in zip(survey.parts, orders, strict=True)]

    def boxes_of(position: Position) -> str:
        part, image = position
        own = orders[part][slice(*np.searchsorted(images[part], [image, image + 1]))]
        names = [survey.parts[part].box_name(box) for box in own.tolist()]
        return f" with its boxes {', '.join(names)}" if names else ""

    return boxes_of


def _rotated_images(survey: Survey, kept: list[np.ndarray]) -> list[Change]:
    changes = []
    for p, part in enumerate(survey.parts):
        for i in np.flatnonzero(kept[p]).tolist():
            facts = survey.facts[p][i]
            if facts.orientation > 1:
                kind = "exif-tag" if part.images[i].size_wh in (None, facts.upright_wh) else "exif-rotation"
                changes.append(Change(kind, survey.file_name((p, i))))
    return changes


def _merged_classes(survey: Survey) -> list[Change]:
    names = [{category.name for category in part.categories} for part in survey.parts]
    short = [part for part, own in zip(survey.parts, names, strict=True) if own != set().union(*names)]
    return [Change("class-lists-differ", f"{part.name}: {part.source.name}") for part in short]


def _choose_boxes(survey: Survey, part: int, why: dict[int, str], changes: list[Change]) -> Chosen:
    """Return the content of a split of the copy, given the omitted images."""
    record = survey.parts[part]
    images = _kept(record, why)
    degenerate, outside = bad_boxes(survey, part)
    wrong = {"degenerate-box": degenerate, "box-outside": outside, "repeated-box": repeated_boxes(survey, part)}
    kept = images[record.box_images]
    dropped = Counter({"unknown-class": int((kept & (record.labels < 0)).sum())})  # their problems are already listed
    kept &= record.labels >= 0
    for kind, boxes in wrong.items():
        changes += [_box_change(survey, part, box, kind) for box in np.flatnonzero(kept & boxes)]
        dropped[kind] = int((kept & boxes).sum())
        kept &= ~boxes
    cut = kept & (overhang(survey, part) > _ROUNDING)
    changes += [_box_change(survey, part, box, "box-over-border") for box in np.flatnonzero(cut)]
    boxes = np.flatnonzero(kept)
    return Chosen(images, why, boxes[np.argsort(record.box_images[boxes], kind="stable")], dropped)


def _box_change(survey: Survey, part: int, box: np.int64, kind: str) -> Change:
    record = survey.parts[part]
    return Change(kind, f"{survey.file_name((part, int(record.box_images[box])))} {record.box_name(int(box))}")


def _category_ids(survey: Survey) -> dict[str, int]:
    """Return the id per class name: that of the files if these are consistent integers, else 1, 2, 3, ..."""
    ids: dict[str, int] = {}
    for part in survey.parts:
        for category in part.categories:
            ids.setdefault(category.name, category.id)
    whole = all(type(number) is int and abs(number) < 2**63 for number in ids.values())
    if whole and len(set(ids.values())) == len(ids):
        return ids
    return {name: number for number, name in enumerate(ids, start=1)}


def _write_split(
    survey: Survey, part: int, images: np.ndarray, boxes: np.ndarray, category_ids: dict[str, int], root: Path
) -> None:
    record = survey.parts[part]
    folder = root / "images" / record.split
    ids = [record.images[i].image_id for i in images]
    if not all(type(number) is int and abs(number) < 2**63 for number in ids):
        ids = list(range(1, len(images) + 1))
    starts = np.searchsorted(record.box_images[boxes], images)
    ends = np.searchsorted(record.box_images[boxes], images, side="right")
    rows: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    taken: set[str] = set()
    for image, image_id, start, end in zip(images.tolist(), ids, starts, ends, strict=True):
        facts = survey.facts[part][image]
        name = _free_name(record.images[image].file_name, facts.orientation > 1, taken)
        _write_image(record.images[image].path, folder / name, facts)
        width, height = facts.upright_wh
        rows["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        own = boxes[start:end]
        for box, xywh in zip(own.tolist(), _upright_boxes(survey, part, image, own), strict=True):
            area, stated = xywh[2] * xywh[3], float(record.areas[box])
            if 0 <= stated < LARGEST:
                area = min(stated, area)
            rows["annotations"].append(
                {
                    "id": len(rows["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[record.categories[record.labels[box]].name],
                    "bbox": xywh,
                    "area": area,
                    "iscrowd": int(record.iscrowd[box]),
                }
            )
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    write = FORMATS[record.format].write or write_coco
    write(root, record.split, {**rows, "categories": categories})


def _upright_boxes(survey: Survey, part: int, image: int, boxes: np.ndarray) -> list[list[float]]:
    """Return the boxes [x, y, width, height] of an image, clipped and rotated like the copy of the image."""
    facts, size_wh = survey.facts[part][image], survey.sizes_wh[part][image]
    xywh = survey.boxes_xywh[part][boxes]
    low, high = xywh[:, :2].clip(0, size_wh), (xywh[:, :2] + xywh[:, 2:]).clip(0, size_wh)
    if tuple(size_wh) != facts.upright_wh:  # annotated as stored
        low, high = rotate_boxes(low, high, size_wh=facts.stored_wh, orientation=facts.orientation)
    return np.concatenate([low, high - low], axis=1).tolist()


def rotate_boxes(
    low: np.ndarray, high: np.ndarray, *, size_wh: tuple[int, int], orientation: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (n, 2) of boxes in a stored image of `size_wh` after it is rotated upright.

    Source: the figure of orientations in the Exif standard (CIPA DC-008).
    """
    mirror = np.array([orientation in (2, 3, 7, 8), orientation in (3, 4, 6, 7)])
    low, high = np.where(mirror, size_wh - high, low), np.where(mirror, size_wh - low, high)
    return (low[:, ::-1], high[:, ::-1]) if orientation >= 5 else (low, high)


def _write_image(source: Path, target: Path, facts: ImageFacts) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if facts.orientation > 1:
        file_format = _SAVED_SUFFIXES[target.suffix.lower()]
        image = open_image(source, mode=None)
        if image.mode not in _SAVED_MODES[file_format]:
            image = open_image(source)
        image.save(target, format=file_format, quality=95)
    else:
        shutil.copyfile(source, target)


def _free_name(file_name: str, encoded: bool, taken: set[str]) -> str:
    """Return a unique file name for the image, always below the new folder."""
    path = Path(file_name)
    folders = [] if path.is_absolute() else [folder for folder in path.parent.parts if folder != ".."]
    suffix = ".png" if encoded and path.suffix.lower() not in _SAVED_SUFFIXES else path.suffix
    name, number = Path(*folders, path.stem + suffix).as_posix(), 1
    while name.lower() in taken:  # some file systems ignore case
        number += 1
        name = Path(*folders, f"{path.stem}-{number}{suffix}").as_posix()
    taken.add(name.lower())
    return name
