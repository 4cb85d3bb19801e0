"""Class names and the two numbers of a class: its label (0, 1, 2, ... in a model) and its id (any, in a dataset)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from rtdetr.errors import InputError


@dataclass(frozen=True)
class Category:
    """An object class: its `id` in the annotation file, and its name."""

    id: int
    name: str


class Categories(Sequence[Category]):
    """The classes of a dataset or model, immutable; the position of a category is its label.

    Raises:
        InputError: two categories share an id.
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        self._categories = tuple(categories)
        if len(self.label_of_id) < len(self._categories):
            repeated = sorted(i for i in self.label_of_id if self.ids.count(i) > 1)
            raise InputError(f"category ids must be unique, got {repeated[0]} more than once")

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> "Categories":
        """Read COCO's `categories` list, or the output of `to_json`; the order of the rows is kept.

        Raises:
            InputError: a row is not an object with an integer `id` and a text `name`.
        """
        categories = []
        for position, row in enumerate(rows):
            match row:
                case {"id": int(number), "name": str(name)} if not isinstance(number, bool):
                    categories.append(Category(number, name))
                case _:
                    raise InputError(f'category {position} must be like {{"id": 1, "name": "person"}}, got {row!r}')
        return cls(categories)

    @classmethod
    def numbered(cls, count: int) -> "Categories":
        """Placeholders for unknown classes: "class 0", "class 1", ... with the label as id."""
        return cls(Category(label, f"class {label}") for label in range(count))

    @classmethod
    def of_ids(cls, count: int) -> "Categories":
        """Placeholders for classes with known ids, equal to the labels, but unknown names: "id 0", "id 1", ..."""
        return cls(Category(label, f"id {label}") for label in range(count))

    def by_id(self, count: int | None = None) -> "Categories":
        """Return these classes with ids as labels: one row per id from 0 on; unused ids are named "id 0", "id 1", ...

        Args:
            count: number of rows; None: the largest id + 1.

        Raises:
            InputError: an id is outside the rows.
        """
        count = max(self.ids, default=-1) + 1 if count is None else count
        outside = [number for number in self.ids if not 0 <= number < count]
        if outside:
            raise InputError(f"category id {outside[0]} is outside 0..{count - 1}, the rows of the model")
        names = dict(zip(self.ids, self.names, strict=True))
        return Categories(Category(label, names.get(label, f"id {label}")) for label in range(count))

    @cached_property
    def names(self) -> list[str]:
        """Names by label."""
        return [category.name for category in self._categories]

    @cached_property
    def ids(self) -> list[int]:
        """Ids by label."""
        return [category.id for category in self._categories]

    @cached_property
    def label_of_id(self) -> dict[int, int]:
        """Label of each id."""
        return {category.id: label for label, category in enumerate(self._categories)}

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows that `from_json` reads."""
        return [{"id": category.id, "name": category.name} for category in self._categories]

    def __len__(self) -> int:
        return len(self._categories)

    @overload
    def __getitem__(self, label: int) -> Category: ...
    @overload
    def __getitem__(self, label: slice) -> "Categories": ...
    def __getitem__(self, label: int | slice) -> "Category | Categories":
        return Categories(self._categories[label]) if isinstance(label, slice) else self._categories[label]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Categories) and self._categories == other._categories

    def __hash__(self) -> int:
        return hash(self._categories)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3]) + (", ..." if len(self) > 3 else "")
        return f"Categories({len(self)}: {shown})"


_COCO_NAMES = """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
_COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_VOC_NAMES = """\
aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
pottedplant, sheep, sofa, train, tvmonitor"""


def _names(text: str) -> list[str]:
    return text.replace("\n", " ").split(", ")


COCO80 = Categories(
    Category(number, name)
    for number, name in zip((i for i in range(1, 91) if i not in _COCO_UNUSED_IDS), _names(_COCO_NAMES), strict=True)
)
"""The 80 classes of COCO detection with their ids from 1 to 90, ten of them unused. Source: arXiv 1405.0312."""

COCO_SYNONYMS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
"""Names in transformers' COCO repositories that differ from COCO's own."""

VOC20 = Categories(Category(label, name) for label, name in enumerate(_names(_VOC_NAMES)))
"""The 20 classes of PASCAL VOC in alphabetical order; VOC has no ids, so the id is the label."""
