"""All splits of a dataset with facts about their image files: the input of every check."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rtdetr.data.box_forms import CENTER
from rtdetr.data.doctor.duplicates import near_groups, same_files
from rtdetr.data.doctor.findings import KINDS, Example, Finding
from rtdetr.data.doctor.images import ImageFacts, examine_all
from rtdetr.data.records import Part

Position = tuple[int, int]  # index of a part, and of an image in it


@dataclass
class Survey:
    """The data of one examination.

    Attributes:
        parts: the splits.
        facts: per part, the facts of its image files.
        sizes_wh: per part, int64 (images, 2): the size that the boxes refer to, as annotated or else of the upright
            file; 0 if neither is known.
        boxes_xywh: per part, float64 (boxes, 4), pixels.
        same, near: groups of identical files, and of near duplicates.
    """

    parts: list[Part]
    facts: list[list[ImageFacts]]
    sizes_wh: list[np.ndarray] = field(init=False)
    boxes_xywh: list[np.ndarray] = field(init=False)
    same: list[list[Position]] = field(init=False)
    near: list[list[Position]] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes_wh = [_sizes(part, facts) for part, facts in zip(self.parts, self.facts, strict=True)]
        self.boxes_xywh = [_pixels(part, sizes) for part, sizes in zip(self.parts, self.sizes_wh, strict=True)]
        positions = [(p, i) for p, part in enumerate(self.parts) for i in range(len(part.images))]
        flat = [self.facts[p][i] for p, i in positions]
        self.same = [[positions[at] for at in group] for group in same_files(flat)]
        self.near = [[positions[at] for at in group] for group in near_groups(flat)]

    @cached_property
    def _counts(self) -> list[np.ndarray]:
        return [np.bincount(part.box_images, minlength=len(part.images)) for part in self.parts]

    def example(
        self, position: Position, detail: str, *, box: int | None = None, also: Position | None = None
    ) -> Example:
        """Return an example that shows an image, and optionally one of its boxes and a second image."""
        part, image = position
        record = self.parts[part]
        annotation = "" if box is None else record.box_name(box)
        images = (position,) if also is None else (position, also)
        return Example(record.name, record.images[image].file_name, annotation, detail, images, box)

    def num_boxes(self, position: Position) -> int:
        """Return the number of boxes of an image."""
        return int(self._counts[position[0]][position[1]])

    def file_name(self, position: Position) -> str:
        """Return split and file name of an image."""
        part, image = position
        return f"{self.parts[part].name}/{self.parts[part].images[image].file_name}"


def survey(parts: Sequence[Part]) -> Survey:
    """Read every image file of the parts, only once if several list it."""
    paths = list(dict.fromkeys(image.path for part in parts for image in part.images))
    facts = dict(zip(paths, examine_all(paths), strict=True))
    return Survey(list(parts), [[facts[image.path] for image in part.images] for part in parts])


def _sizes(part: Part, facts: list[ImageFacts]) -> np.ndarray:
    sizes = [image.size_wh or one.upright_wh for image, one in zip(part.images, facts, strict=True)]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _pixels(part: Part, sizes_wh: np.ndarray) -> np.ndarray:
    scale = np.tile(np.maximum(sizes_wh[part.box_images], 1), 2)
    return part.boxes_xywh * scale if part.form == CENTER else part.boxes_xywh


class Collector:
    """Collects findings and keeps the first of each kind as examples."""

    def __init__(self, max_examples: int) -> None:
        self._max_examples = max_examples
        self._counts: dict[str, int] = defaultdict(int)
        self._examples: dict[str, list[Example]] = defaultdict(list)

    def add(self, kind: str, rows: Iterable[int] | np.ndarray, example: Callable[[int], Example]) -> None:
        """Count the rows and describe the first of them."""
        positions = [int(row) for row in rows]
        self._counts[kind] += len(positions)
        free = self._max_examples - len(self._examples[kind])
        self._examples[kind] += [example(row) for row in positions[: max(free, 0)]]

    def add_one(self, kind: str, example: Example) -> None:
        """Count one occurrence."""
        self.add(kind, [0], lambda _: example)

    def findings(self) -> list[Finding]:
        """Return the findings in the order of `KINDS`, errors first."""
        return [Finding(kind, self._counts[kind], self._examples[kind]) for kind in KINDS if self._counts[kind]]
