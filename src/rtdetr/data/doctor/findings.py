"""The kinds of finding of the doctor, and the findings themselves.

A finding has a kind, a count and a few examples; the kind determines severity, title and remedy. An "error" stops
training or invalidates its result, a "warning" costs accuracy or causes trouble later, and a "note" is a useful fact
about valid data.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One row of `KINDS`. `fixed` is what `--fix` does about it; None if it does nothing."""

    severity: str
    title: str
    remedy: str
    fixed: str | None = None


KINDS: dict[str, Kind] = {
    "unreadable-split": Kind(
        "error",
        "splits that cannot be read",
        "Correct the path or the file that names them, or move their annotations to an expected place.",
        "omitted",
    ),
    "unreadable-entry": Kind(
        "error", "entries that cannot be read", "Correct or remove them in the annotations.", "omitted"
    ),
    "duplicate-id": Kind(
        "error",
        "duplicate ids",
        "Renumber them. The usual cause is files merged without renumbering.",
        "annotations are renumbered; files that share an image id are omitted because their boxes are unknown",
    ),
    "wrong-id": Kind("error", "ids that are not integers", "Use integers.", "renumbered"),
    "wrong-value": Kind(
        "error", "invalid values", "Correct or remove them.", "replaced by those of the image file or the box"
    ),
    "not-fraction": Kind(
        "error",
        "YOLO boxes that are not fractions",
        "Divide pixel coordinates by the width and height of the image.",
        "omitted",
    ),
    "other-box-form": Kind(
        "error",
        "splits with boxes apparently in another form",
        "Convert the boxes to the form that the format expects; --fix does not. If they are right, ignore this.",
    ),
    "unknown-image": Kind(
        "error", "annotations of images that are not listed", "List the image or remove the annotations.", "omitted"
    ),
    "unknown-class": Kind(
        "error", "boxes of classes that are not listed", "Add the class to the list, or correct the box.", "omitted"
    ),
    "same-class-name": Kind("error", "classes with the same name", "Merge or rename them.", "merged"),
    "no-image": Kind("error", "splits without images", "List the images or omit the split."),
    "no-object": Kind(
        "error",
        "splits without objects",
        "Add the labels or omit the split: it is useless for training and evaluation.",
    ),
    "misplaced-label": Kind(
        "error",
        "images with a label file in an unusual place",
        "Move it to the usual place, or put an empty file there if the image has no objects.",
        "omitted",
    ),
    "no-class": Kind("error", "splits without classes", "Add the list of classes."),
    "class-lists-differ": Kind(
        "error",
        "splits with different classes",
        "Give all splits the same list of classes.",
        "all get the combined list",
    ),
    "ambiguous-file": Kind(
        "error",
        "listed images that match several files",
        "Correct their paths, or give the right folder with --images.",
        "omitted",
    ),
    "missing-file": Kind(
        "error", "listed images without a file", "Copy them there, or give the right folder with --images.", "omitted"
    ),
    "corrupt-image": Kind("error", "images that cannot be read", "Copy or download them again.", "omitted"),
    "size-mismatch": Kind(
        "error",
        "images with a different size than annotated",
        "Use the annotated image, or annotate this one: the boxes are misplaced.",
        "omitted",
    ),
    "degenerate-box": Kind("error", "boxes without width or height", "Correct or remove them.", "omitted"),
    "box-outside": Kind(
        "error",
        "boxes entirely outside their image",
        "Correct or remove them. A usual cause is corners [x1, y1, x2, y2] written as [x, y, width, height].",
        "omitted",
    ),
    "leak": Kind(
        "error",
        "images in two splits",
        "Remove them from the training split: accuracy measured on them is invalid.",
        "omitted from the earlier split: train before val before test",
    ),
    "unlabeled-image": Kind(
        "warning",
        "images without any label",
        "Add the labels. For an image without objects, add an empty label file or list the image.",
        "omitted",
    ),
    "label-without-image": Kind(
        "warning",
        "YOLO label files without an image",
        "Add the image or remove the file: its objects are not used for training.",
        "omitted",
    ),
    "near-leak": Kind(
        "warning",
        "near-duplicate images in two splits",
        "Inspect them; move all images of one scene to the same split.",
    ),
    "exif-rotation": Kind(
        "warning",
        "images annotated without their EXIF rotation",
        "Training reads them as annotated, but detection rotates such photos upright: rotate pixels and boxes.",
        "pixels and boxes are rotated upright",
    ),
    "same-image": Kind(
        "warning", "duplicate images in one split", "Remove the duplicates.", "the one with the most boxes is kept"
    ),
    "box-over-border": Kind(
        "warning",
        "boxes that extend beyond the image",
        "Training clips them. Check that boxes and images belong together.",
        "clipped to the image",
    ),
    "repeated-box": Kind("warning", "duplicate boxes", "Remove the duplicates.", "the first is kept"),
    "vanishing-box": Kind(
        "warning",
        "boxes narrower than a pixel at the training size",
        "Training omits them. Train at a larger --size, or cut the images into tiles.",
    ),
    "too-many-objects": Kind(
        "warning",
        "images with more objects than the model has queries",
        "Train with more queries, or cut the images into tiles.",
    ),
    "untrained-class": Kind(
        "warning", "classes without objects in the training split", "Add examples or remove the class."
    ),
    "missing-test": Kind(
        "note",
        "test splits that are named but missing",
        "Correct the path or remove the entry. Training and validation do not need it.",
        "omitted",
    ),
    "other-form": Kind(
        "note",
        "values in a nonstandard form for COCO",
        "They are read correctly here, but other programs may not read them.",
        "written in the standard form",
    ),
    "other-path": Kind(
        "note",
        "images found at a different path than listed",
        "Check that these are the right images; other programs may not find them.",
        "listed at their actual path",
    ),
    "unused-class": Kind("note", "classes without any object", "Remove them unless objects will be added later."),
    "unmeasured-class": Kind(
        "note", "classes without objects in the validation split", "Their accuracy is not measured; add examples."
    ),
    "near-same-image": Kind("note", "near-duplicate images in one split", "Inspect them; they add little to training."),
    "empty-image": Kind(
        "note", "images without objects", "They are used as background. Check that none lacks its annotations."
    ),
    "exif-tag": Kind(
        "note",
        "images with an EXIF rotation, annotated upright",
        "Training and detection rotate them upright; other programs may not.",
        "pixels are rotated upright",
    ),
    "unlisted-file": Kind(
        "note",
        "image files that no split lists",
        "They are not used. Annotate them, or list them as empty images.",
        "omitted",
    ),
    "tiny-box": Kind(
        "note",
        "boxes smaller than 8x8 pixels at the training size",
        "They are hard to learn; a larger --size or tiling helps.",
    ),
    "distorted-image": Kind(
        "note",
        "images stretched by more than a factor of 2",
        "Every image is resized to the training size; choose one with the shape of the images, such as --size 320x960.",
    ),
}


class Example(NamedTuple):
    """One occurrence of a finding.

    part, file and annotation give the location; `images` has positions (part, image) to show, `box` that of the box.
    """

    part: str
    file: str
    annotation: str
    detail: str
    images: tuple[tuple[int, int], ...] = ()
    box: int | None = None

    def line(self) -> str:
        """Return the example as one line of text."""
        where = " ".join(text for text in (self.file, self.annotation) if text)
        return printable(f"{self.part}: {where} {self.detail}")


def printable(text: str) -> str:
    """Return the text on one line, with unprintable characters escaped."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


@dataclass
class Finding:
    """All occurrences of one kind: their number, and the first as examples."""

    kind: str
    count: int
    examples: list[Example] = field(default_factory=list)

    @property
    def severity(self) -> str:
        """One of "error", "warning" and "note"."""
        return KINDS[self.kind].severity

    @property
    def title(self) -> str:
        """What was found, in the plural."""
        return KINDS[self.kind].title

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].remedy

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        rows = [
            {"split": one.part, "file": one.file, "annotation": one.annotation or None, "detail": one.detail}
            for one in self.examples
        ]
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "title": self.title,
            "remedy": self.remedy,
            "fix": KINDS[self.kind].fixed,
            "examples": rows,
        }
