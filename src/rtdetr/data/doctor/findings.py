"""What the doctor can find: a table of the kinds of finding, and the finding itself.

A finding has a kind, a count and a few examples; severity, title and remedy follow from the kind. Severities: an
"error" stops training or makes its result false, a "warning" costs accuracy or surprises later, a "note" is a fact
worth knowing about sound data.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One row of `KINDS`. `fixed` says what `--fix` does about it; None: it leaves that to a person."""

    severity: str
    title: str
    remedy: str
    fixed: str | None = None


KINDS: dict[str, Kind] = {
    "unreadable-split": Kind(
        "error",
        "splits that cannot be read",
        "Correct the path or the file that names them, or put their annotations where they are looked for.",
        "left out",
    ),
    "unreadable-entry": Kind(
        "error", "entries that cannot be read", "Correct or remove them in the annotations.", "left out"
    ),
    "duplicate-id": Kind(
        "error",
        "ids given twice",
        "Number them anew. Files merged without renumbering are the usual cause.",
        "annotations are numbered anew; files that share an image id are left out, whose boxes are unknown",
    ),
    "wrong-id": Kind("error", "ids that are not integers", "Use integers.", "renumbered"),
    "wrong-value": Kind(
        "error", "values of another type", "Correct or remove them.", "replaced by the image's or the box's own"
    ),
    "not-fraction": Kind(
        "error", "YOLO boxes that are not fractions", "Divide pixels by width and height of the image.", "left out"
    ),
    "other-box-form": Kind(
        "error",
        "splits whose boxes look like another form",
        "Convert the boxes to the form of the format; they are never converted here. If they are right, go on.",
    ),
    "unknown-image": Kind(
        "error", "annotations of images that are not listed", "List the image or remove them.", "left out"
    ),
    "unknown-class": Kind(
        "error", "boxes of classes that are not listed", "Add the class to the list or correct the box.", "left out"
    ),
    "same-class-name": Kind("error", "classes with one name", "Merge or rename them.", "merged"),
    "no-image": Kind("error", "splits without an image", "List the images, or leave the split out."),
    "no-object": Kind(
        "error", "splits without an object", "Add the labels, or leave the split out: it teaches and measures nothing."
    ),
    "misplaced-label": Kind(
        "error",
        "images whose label file is not in a usual place",
        "Move it there, or put an empty file there if the image has no objects.",
        "left out",
    ),
    "no-class": Kind("error", "splits without a class", "Add the list of classes."),
    "class-lists-differ": Kind(
        "error", "splits with other classes", "Give all splits the same list of classes.", "all get the joint list"
    ),
    "ambiguous-file": Kind(
        "error",
        "listed images that several files could be",
        "Correct their paths, or give the right folder with --images.",
        "left out",
    ),
    "missing-file": Kind(
        "error", "listed images without a file", "Copy them there, or give the right folder with --images.", "left out"
    ),
    "corrupt-image": Kind("error", "images that cannot be read", "Copy or download them again.", "left out"),
    "size-mismatch": Kind(
        "error",
        "images of another size than annotated",
        "Put the annotated image there, or annotate this one: the boxes are misplaced.",
        "left out",
    ),
    "degenerate-box": Kind("error", "boxes without width or height", "Correct or remove them.", "left out"),
    "box-outside": Kind(
        "error",
        "boxes wholly outside their image",
        "Correct or remove them. Corners [x1, y1, x2, y2] written as [x, y, width, height] are a usual cause.",
        "left out",
    ),
    "leak": Kind(
        "error",
        "images that are in two splits",
        "Remove them from the split that is trained on: accuracy measured on them is false.",
        "left out of the earlier split: train before val before test",
    ),
    "unlabeled-image": Kind(
        "warning",
        "images without any label",
        "Add the labels. Where an image has no objects, say so: with an empty label file, or by listing it.",
        "left out",
    ),
    "label-without-image": Kind(
        "warning",
        "YOLO label files without an image",
        "Put the image there, or remove the file: its objects are not trained on.",
        "left out",
    ),
    "near-leak": Kind(
        "warning",
        "images nearly the same in two splits",
        "Look at them; move all pictures of one scene into one split.",
    ),
    "exif-rotation": Kind(
        "warning",
        "images annotated without their EXIF rotation",
        "Training reads them as annotated, but a detector will see such photos upright: turn pixels and boxes.",
        "pixels and boxes are turned upright",
    ),
    "same-image": Kind(
        "warning", "copies of an image in one split", "Remove the copies.", "the one with most boxes is kept"
    ),
    "box-over-border": Kind(
        "warning",
        "boxes that reach over the border",
        "Training cuts them off there. Check that boxes and images belong together.",
        "cut at the border",
    ),
    "repeated-box": Kind("warning", "boxes given twice", "Remove the copies.", "the first is kept"),
    "vanishing-box": Kind(
        "warning",
        "boxes narrower than a pixel at the training size",
        "Training leaves them out. Train at a larger --size, or cut the images into tiles.",
    ),
    "too-many-objects": Kind(
        "warning",
        "images with more objects than the model has queries",
        "Train with more queries, or cut the images into tiles.",
    ),
    "untrained-class": Kind(
        "warning", "classes without objects in the training split", "Add examples, or remove the class."
    ),
    "missing-test": Kind(
        "note",
        "test splits that are named but not there",
        "Correct the path or remove the entry. Training and validation do not need it.",
        "left out",
    ),
    "other-form": Kind(
        "note",
        "forms of values that are not COCO's",
        "They are read as meant; other programs may not read them.",
        "written as the format has them",
    ),
    "other-path": Kind(
        "note",
        "images found under another path than listed",
        "Check that these are the images meant; other programs may not find them.",
        "written as they are",
    ),
    "unused-class": Kind("note", "classes without any object", "Remove them if they are not meant to come."),
    "unmeasured-class": Kind(
        "note", "classes without objects in the validation split", "Their accuracy is not measured: add examples."
    ),
    "near-same-image": Kind(
        "note", "images nearly the same as another of their split", "Look at them; they add little to the training."
    ),
    "empty-image": Kind(
        "note", "images without objects", "They teach what is background. Check that none was merely not annotated."
    ),
    "exif-tag": Kind(
        "note",
        "images turned by an EXIF tag, annotated upright",
        "Training and detection turn them upright; other programs may not.",
        "pixels are turned upright",
    ),
    "unlisted-file": Kind(
        "note",
        "image files that no split lists",
        "They are not used. Annotate them, or list them as empty images.",
        "left out",
    ),
    "tiny-box": Kind(
        "note",
        "boxes smaller than 8x8 pixels at the training size",
        "They are hard to learn: a larger --size or tiles help.",
    ),
    "distorted-image": Kind(
        "note",
        "images stretched more than twofold",
        "Every image is resized to the training size; choose one of the images' shape, such as --size 320x960.",
    ),
}


class Example(NamedTuple):
    """One occurrence of a finding.

    part, file and annotation say where; `images` are positions (part, image) to be shown, `box` that of the box meant.
    """

    part: str
    file: str
    annotation: str
    detail: str
    images: tuple[tuple[int, int], ...] = ()
    box: int | None = None

    def line(self) -> str:
        """The example as text, on one line."""
        where = " ".join(text for text in (self.file, self.annotation) if text)
        return printable(f"{self.part}: {where} {self.detail}")


def printable(text: str) -> str:
    """The text on one line, with escapes for what a terminal cannot or should not be sent."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


@dataclass
class Finding:
    """All occurrences of one kind: how many, and the first of them."""

    kind: str
    count: int
    examples: list[Example] = field(default_factory=list)

    @property
    def severity(self) -> str:
        """One of "error", "warning" and "note"."""
        return KINDS[self.kind].severity

    @property
    def title(self) -> str:
        """What was found, as a plural."""
        return KINDS[self.kind].title

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].remedy

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values."""
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
