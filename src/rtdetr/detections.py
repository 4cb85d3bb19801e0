"""What a detector returns: boxes in pixels of the original image, scores and class labels, checked once.

`Detector` is the interface that every runtime has; `rtdetr.drawing.draw` paints `Detections` on an image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np

from rtdetr.categories import Categories
from rtdetr.errors import InputError
from rtdetr.wording import counted


class Detection(NamedTuple):
    """One object: box (x1, y1, x2, y2) in pixels of the original image, score in 0..1, class label and name."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, highest score first; iterating gives `Detection` rows.

    A mask, slice or index array in brackets selects: `detections[detections.scores > 0.8]`.

    Attributes:
        boxes_xyxy: float32 (n, 4), pixels of the original image. They may reach a little beyond the image, as
            published evaluation wants them; `clipped()` cuts them at its border.
        scores: float32 (n,) in 0..1, descending; rows given in another order are sorted.
        labels: int64 (n,), positions in `names`.
        names: all class names by label, also of classes that were not found.
        image_size_wh: width and height of the original image in pixels.
        category_ids: ids by label that the dataset gave the classes; None: not known.

    Raises:
        InputError: an array has the wrong shape, is not finite, or a label has no name or id.
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
            raise InputError("detections need finite boxes and scores, got NaN or infinity: check the model's weights")
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
        """Name of each detection, in order."""
        return [self.names[label] for label in self.labels]

    def above(self, threshold: float) -> "Detections":
        """Those with a score strictly above `threshold`, as the published demo selects them."""
        return self[self.scores > threshold]

    def clipped(self) -> "Detections":
        """The same objects with every box cut at the border of the image."""
        limits = np.asarray(self.image_size_wh * 2, dtype=np.float32)
        return replace(self, boxes_xyxy=np.clip(self.boxes_xyxy, 0, limits))

    def counts(self) -> dict[str, int]:
        """Number of objects of each class that was found, most frequent first, then by name."""
        labels, counts = np.unique(self.labels, return_counts=True)
        found = [(self.names[label], int(count)) for label, count in zip(labels, counts, strict=True)]
        return dict(sorted(found, key=lambda row: (-row[1], row[0])))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`: boxes rounded to 1/1000 pixel, scores to six decimals.

        `label` is the position in `names`, `category_id` the id in the dataset, where that is known.
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
    """An image in, `Detections` out, whatever runs the network; `rtdetr.load` returns one."""

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
        """Channels of the images that it takes."""
        ...

    def __call__(
        self,
        source: Any,
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = 300,
        batch_size: int = 8,
    ) -> "Detections | list[Detections]":
        """Detect objects in one image, or in several, which may differ in size.

        Args:
            source: a path, file object, bytes, PIL image or array, as `rtdetr.images.load_image` takes them, or a
                PyTorch tensor (c, h, w) of uint8, uint16, bool or floats in [0, 1]; several of them in a list or tuple,
                or as an array (b, h, w, c) or tensor (b, c, h, w).
            threshold: only objects with a score above it, 0..1; "auto": above the threshold of their class that was
                measured best and stored with the weights.
            size_hw: height and width the image is resized to for the network, multiples of 32; None: the model's own.
            max_detections: at most so many objects per image, the best first.
            batch_size: images that go through the network together; memory grows with it.

        Returns:
            `Detections` for one image; a list of them, in order, for several. Boxes are in pixels of the original image
            and are not clipped to it, as published evaluation wants them; `Detections.clipped()` does that.

        Raises:
            InputError: an image that cannot be read, an option out of range, a size that an exported graph does not
                have, or "auto" without known thresholds.
            WeightsError: the network gives NaN.
        """
        ...
