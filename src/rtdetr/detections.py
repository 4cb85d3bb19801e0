"""Results of a detector: boxes in pixels of the original image, scores and class labels, validated once.

`Detector` is the interface of every runtime; `rtdetr.drawing.draw` draws `Detections` on an image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np

from rtdetr.categories import Categories
from rtdetr.errors import InputError
from rtdetr.wording import counted

MAX_DETECTIONS = 300  # per image, best first, as in published evaluation


class Detection(NamedTuple):
    """One object: box (x1, y1, x2, y2) in pixels of the original image, score in [0, 1], class label and name."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects detected in one image, highest score first; iterating yields `Detection` objects.

    Select with a mask, slice or index array: `detections[detections.scores > 0.8]`.

    Attributes:
        boxes_xyxy: float32 (n, 4), pixels of the original image. Boxes can extend slightly beyond the image, as in
            published evaluation; `clipped()` clips them.
        scores: float32 (n,) in [0, 1], descending; rows in another order are sorted.
        labels: int64 (n,), indices into `names`.
        names: all class names by label, including classes that were not detected.
        image_size_wh: width and height of the original image in pixels.
        category_ids: category ids of the dataset by label; None: unknown.

    Raises:
        InputError: an array has the wrong shape or non-finite values, or a label has no name or id.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    image_size_wh: tuple[int, int]
    category_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32)
        boxes = boxes if boxes.size else boxes.reshape(0, 4)
        scores = np.asarray(self.scores, dtype=np.float32)
        labels = np.asarray(self.labels, dtype=np.int64)
        count = len(scores) if scores.ndim == 1 else -1
        if boxes.shape != (count, 4) or labels.shape != (count,):
            raise InputError(
                "detections need boxes (n, 4), scores (n,) and labels (n,); "
                f"got {boxes.shape}, {scores.shape} and {labels.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise InputError("detections need finite boxes and scores, got NaN or infinity. Check the model's weights")
        if count and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise InputError(f"labels must be in 0..{len(self.names) - 1}, got {labels.min()}..{labels.max()}")
        if self.category_ids is not None and len(self.category_ids) != len(self.names):
            raise InputError(
                f"expected {counted(len(self.names), 'category id')}, one per name, got {len(self.category_ids)}"
            )
        width, height = self.image_size_wh
        if min(width, height) < 1:
            raise InputError(f"image size must be at least 1x1 pixels, got {width}x{height} (width x height)")
        if (np.diff(scores) > 0).any():
            order = np.argsort(-scores, kind="stable")
            boxes, scores, labels = boxes[order], scores[order], labels[order]
        values = {"boxes_xyxy": boxes, "scores": scores, "labels": labels, "names": tuple(self.names)}
        for field, value in {**values, "image_size_wh": (int(width), int(height))}.items():
            object.__setattr__(self, field, value)

    @property
    def class_names(self) -> list[str]:
        """Class name of each detection, in order."""
        return [self.names[label] for label in self.labels]

    def above(self, threshold: float) -> "Detections":
        """Return the detections with a score strictly above `threshold`, as in the published demo."""
        return self[self.scores > threshold]

    def clipped(self) -> "Detections":
        """Return the detections with all boxes clipped to the image."""
        limits = np.asarray(self.image_size_wh * 2, dtype=np.float32)
        return replace(self, boxes_xyxy=np.clip(self.boxes_xyxy, 0, limits))

    def counts(self) -> dict[str, int]:
        """Return the number of objects per detected class, most frequent first, then by name."""
        labels, counts = np.unique(self.labels, return_counts=True)
        found = [(self.names[label], int(count)) for label, count in zip(labels, counts, strict=True)]
        return dict(sorted(found, key=lambda row: (-row[1], row[0])))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`: boxes rounded to 1/1000 pixel, scores to six decimals.

        `label` is the index in `names`, `category_id` the id in the dataset, if known.
        """
        boxes = self.boxes_xyxy.astype(np.float64).round(3).tolist()
        scores = self.scores.astype(np.float64).round(6).tolist()
        labels = self.labels.tolist()
        ids = [{} if self.category_ids is None else {"category_id": self.category_ids[label]} for label in labels]
        rows = zip(boxes, scores, labels, ids, self.class_names, strict=True)
        return {
            "image_size_wh": list(self.image_size_wh),
            "detections": [
                {"box_xyxy": box, "score": score, "label": label, **number, "name": name}
                for box, score, label, number, name in rows
            ],
        }

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: int) -> Detection: ...
    @overload
    def __getitem__(self, which: slice | Sequence[int] | np.ndarray) -> "Detections": ...
    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> "Detection | Detections":
        if isinstance(which, int | np.integer):
            label = int(self.labels[which])
            box = tuple(self.boxes_xyxy[which].tolist())
            return Detection(box, float(self.scores[which]), label, self.names[label])
        return replace(self, boxes_xyxy=self.boxes_xyxy[which], scores=self.scores[which], labels=self.labels[which])

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in self.counts().items()) or "nothing"
        return f"Detections({found}; image {self.image_size_wh[0]}x{self.image_size_wh[1]})"


@runtime_checkable
class Detector(Protocol):
    """The interface of a detector, independent of the runtime; `rtdetr.load` returns one."""

    @property
    def categories(self) -> Categories:
        """Classes of the model by label, with the ids of the dataset it was trained on."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        ...

    @property
    def in_channels(self) -> int:
        """Number of image channels."""
        ...

    def __call__(
        self,
        source: Any,
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch_size: int = 8,
    ) -> "Detections | list[Detections]":
        """Detect objects in one or several images, which can differ in size.

        Args:
            source: a path, file object, bytes, PIL image or array, as for `rtdetr.images.load_image`, or a tensor
                (c, h, w) of uint8, uint16, bool or floats in [0, 1]; several in a list or tuple, as an array
                (b, h, w, c) or as a tensor (b, c, h, w).
            threshold: score threshold in [0, 1]; only higher scores are returned. "auto": the best measured threshold
                of each class, stored with the weights.
            size_hw: input height and width, multiples of 32; None: the model's own.
            max_detections: maximum number of objects per image; the highest scores are kept.
            batch_size: images per forward pass; memory grows with it.

        Returns:
            `Detections` for one image; for several, a list in the same order. Boxes are in pixels of the original image
            and not clipped to it, as in published evaluation; `Detections.clipped()` clips them.

        Raises:
            InputError: an image cannot be read, an argument is out of range, an exported graph does not support the
                size, or "auto" has no known thresholds.
            WeightsError: the network returns NaN.
        """
        ...
