"""What all detectors share, without torch: images in, batches of pixels to the engine, its output to `Detections`.

A runtime is a `BaseDetector` with one method, `infer`. The steps (`read`, `prepare`, `infer`, `finish`) are public, so
that `rtdetr benchmark` times the very code that detects.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from rtdetr.categories import Categories
from rtdetr.detections import Detections
from rtdetr.errors import InputError, WeightsError
from rtdetr.images import Picture, read_picture, size_of
from rtdetr.images.arrays import tensor_array
from rtdetr.preprocessing import resize
from rtdetr.runtimes.arguments import is_share, multiples_of_32, num_tokens, whole_number
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.selection import Found, best_pairs, first_of_each_box, suppress
from rtdetr.wording import counted

Prepared = tuple[np.ndarray, tuple[int, int]]  # uint8 pixels as the engine takes them; original width and height


class Batch(NamedTuple):
    """Images for the engine: pixels, and the original sizes int64 (n, 2) as width and height.

    Pixels are uint8 (b, c, h, w), or (1, h, w, c) where the graph resizes; n is less than b where images were added
    because the engine takes no fewer.
    """

    pixels: np.ndarray
    sizes_wh: np.ndarray

    @property
    def padded_sizes_wh(self) -> np.ndarray:
        """A size for each of the b images."""
        return np.resize(self.sizes_wh, (len(self.pixels), 2))


class RawOutput(NamedTuple):
    """What a network says: logits float32 (b, q, k) and normalised boxes float32 (b, q, 4)."""

    logits: np.ndarray
    boxes_cxcywh: np.ndarray


class BoxOutput(NamedTuple):
    """What a graph with post-processing says: labels (b, n), boxes (b, n, 4) in pixels and scores (b, n)."""

    labels: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray


Output = RawOutput | BoxOutput


class BaseDetector(ABC):
    """A detector that lacks only the engine.

    Args:
        metadata: the network's classes, sizes and thresholds, and what its graph does itself.
        one_label: take the best class of each query only, where published evaluation takes every pair of a query and a
            class. Of a graph that gives the best pairs, the best class of each query among these. A graph that gives
            the best class of each query is used as it is.
        nms_iou: in each class drop detections that overlap a better one by more than this IoU; None: keep all, as
            published evaluation does.

    Raises:
        InputError: an `nms_iou` out of range.
    """

    where = "CPU"  # what runs the network, for `description`
    num_threads: int | None = None  # on the CPU, where the engine says how many
    has_ranges = False  # free axes have limits that the description does not name
    takes_all_queries = True  # an exported graph cannot run with fewer, as small images would need
    batch_sizes: tuple[int, int | None] = (1, None)  # fewest and most images that the engine takes at a time

    def __init__(self, metadata: ExportMetadata, *, one_label: bool = False, nms_iou: float | None = None) -> None:
        if nms_iou is not None and not is_share(nms_iou):
            raise InputError(f"the IoU for non-maximum suppression must be in 0..1, got {nms_iou!r}")
        self.process = os.getpid()  # that the engine works in
        self.metadata = metadata
        self.categories: Categories = metadata.categories
        self.names = metadata.names
        self.category_ids = tuple(metadata.categories.ids)
        self.thresholds = metadata.thresholds
        self.size_hw = metadata.size_hw
        self.one_label = one_label or metadata.one_label
        self.nms_iou = nms_iou

    @property
    def in_channels(self) -> int:
        """Channels of the images: 3 for RGB, 1 for grey, any other number as stored."""
        return self.metadata.in_channels

    def enter_process(self) -> None:
        """Make the engine usable where this process was forked from the one that opened it; each call begins so.

        Raises:
            InputError: it cannot be used there.
        """
        if self.process != os.getpid():
            self.enter_fork()

    def enter_fork(self) -> None:
        """What that takes; nothing where an engine needs nothing of its own. It sets `process`."""
        self.process = os.getpid()

    @abstractmethod
    def infer(self, batch: Batch) -> Output:
        """Run the network, and wait for its result."""

    def infer_all(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run the network on many batches, in order; an engine that can run several at once overrides this."""
        for batch in batches:
            yield batch, self.infer(batch)

    @property
    def description(self) -> str:
        """One line: model, classes, precision, what it runs on and default size."""
        size = f"{self.size_hw[0]}x{self.size_hw[1]}"
        return (
            f"{self.metadata.model} ({counted(len(self.names), 'class')}) in {self.precision} on {self.where} at {size}"
        )

    @property
    def precision(self) -> str:
        """The type that the network computes in, such as "float32"."""
        return self.metadata.precision

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.description}"

    def __call__(
        self,
        source: Any,
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = 300,
        batch_size: int = 8,
    ) -> Detections | list[Detections]:
        """Detect objects in one image, or in several, which may differ in size.

        Args:
            source: what `load_image` takes, or a PyTorch tensor (c, h, w) of uint8, uint16, bool or floats in [0, 1];
                several of them in a list or tuple, or as an array (b, h, w, c) or tensor (b, c, h, w).
            threshold: only objects with a score above it, 0..1; "auto": above the threshold of their class.
            size_hw: height and width for the network, multiples of 32; None: `self.size_hw`.
            max_detections: at most so many objects an image, the best first.
            batch_size: images that go through the network together; memory grows with it.

        Returns:
            `Detections` for one image; a list of them, in order, for several. Boxes are in pixels of the original image
            and are not clipped to it, as published evaluation wants them; `Detections.clipped()` does that.

        Raises:
            InputError: an image that cannot be read, an option out of range, a size that an exported graph does not
                have, or "auto" without known thresholds.
            WeightsError: the network gives NaN.
        """
        self.enter_process()
        size_hw = self.checked_size(size_hw)
        thresholds = self.by_class(threshold)
        max_detections = whole_number(max_detections, "max_detections")
        batch_size = whole_number(batch_size, "batch_size")
        if getattr(source, "ndim", 0) == 4:
            source = list(source)
        if isinstance(source, list | tuple):
            batches = self._batches(source, size_hw, batch_size)
        else:
            batches = [self.batch([self.prepare(self.read(source), size_hw)])]
        found = [
            one
            for batch, output in self.infer_all(batches)
            for one in self.finish(output, batch.sizes_wh, thresholds=thresholds, max_detections=max_detections)
        ]
        return found if isinstance(source, list | tuple) else found[0]

    def read(self, source: Any) -> Picture:
        """Decode one image: as PIL's, or an array (h, w, c) where the model has other channels than three."""
        return read_picture(tensor_array(source, num_channels=self.in_channels), num_channels=self.in_channels)

    def prepare(self, picture: Picture, size_hw: tuple[int, int]) -> Prepared:
        """Resize an image to the network's input, unless the graph does that itself."""
        size_wh = size_of(picture)
        if self.metadata.preprocess == "in_graph":
            return np.asarray(picture), size_wh
        return resize(picture, size_hw), size_wh

    def batch(self, prepared: Sequence[Prepared]) -> Batch:
        """Put images of one size together, with black ones after them where the engine takes no fewer."""
        pixels = np.stack([image for image, _ in prepared]) if len(prepared) > 1 else prepared[0][0][None]
        missing = self.batch_sizes[0] - len(pixels)
        if missing > 0:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), dtype=np.uint8)])
        return Batch(pixels, np.array([size_wh for _, size_wh in prepared], dtype=np.int64))

    def finish(
        self, output: Output, sizes_wh: np.ndarray, *, thresholds: np.ndarray, max_detections: int = 300
    ) -> list[Detections]:
        """Choose among what the network found in each image of a batch.

        Raises:
            WeightsError: NaN or infinity in `output`, or another number of classes than the description names.
        """
        if not all(np.isfinite(values).all() for values in output):
            raise WeightsError(
                f"{self.description} gave NaN or infinity: its weights are damaged or too large"
                + ("" if self.precision == "float32" else ", or do not fit this precision; try precision='float32'")
            )
        if isinstance(output, RawOutput) and output.logits.shape[-1] != len(self.names):
            raise WeightsError(
                f"{self.description} gave scores of {counted(output.logits.shape[-1], 'class')}: the file is damaged, "
                "as its description and its network disagree; export the model again"
            )
        return [
            self._chosen(image, size_wh, thresholds, max_detections)
            for image, size_wh in zip(_images(output), sizes_wh, strict=False)  # a padded batch has more outputs
        ]

    def _chosen(
        self, image: RawOutput | BoxOutput, size_wh: np.ndarray, thresholds: np.ndarray, max_detections: int
    ) -> Detections:
        if isinstance(image, RawOutput):
            found = best_pairs(
                *image,
                size_wh=size_wh,
                max_detections=max_detections,
                one_label=self.one_label,
                lowest=float(thresholds.min()),
            )
        else:
            found = Found(*image).take(
                np.argsort(-image.scores, kind="stable")
            )  # suppression in the graph spoils order
            if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < len(self.names):
                raise InputError(
                    f"{self.description} found class {found.labels.max()}, but has only "
                    f"{counted(len(self.names), 'class name')}"
                )
            if self.one_label and not self.metadata.one_label:
                found = first_of_each_box(found)
            found = found.take(np.arange(min(max_detections, len(found.scores))))
        found = found.take(found.scores > thresholds[found.labels])
        if self.nms_iou is not None:
            found = suppress(found, iou=self.nms_iou)
        width, height = size_wh.tolist()
        return Detections(found.boxes_xyxy, found.scores, found.labels, self.names, (width, height), self.category_ids)

    def by_class(self, threshold: float | str) -> np.ndarray:
        """The score threshold of each class, float32 (k,).

        Raises:
            InputError: out of 0..1, or "auto" where none are known.
        """
        if threshold != "auto":
            if not is_share(threshold):
                raise InputError(f"threshold must be in 0..1 or 'auto', got {threshold!r}")
            return np.full(len(self.names), threshold, dtype=np.float32)
        if self.thresholds is None:
            raise InputError(
                "threshold 'auto' needs weights with a threshold for each class, which these have not. "
                "Measure and store them with: rtdetr evaluate MODEL DATA --save-thresholds"
            )
        return np.array(self.thresholds)

    def checked_size(self, size_hw: Any) -> tuple[int, int]:
        """The size to run at: `size_hw`, or the model's own for None.

        Raises:
            InputError: not two multiples of 32, or not the only size that an exported graph has.
        """
        if size_hw is None:
            return self.size_hw
        size_hw = multiples_of_32(size_hw)
        if not self.metadata.dynamic_size and size_hw != self.size_hw:
            in_graph = self.metadata.preprocess == "in_graph"
            option = f"--size {size_hw[0]}x{size_hw[1]}" if in_graph else "--dynamic size"
            raise InputError(
                f"{self.metadata.model} was exported for images of {self.size_hw[0]}x{self.size_hw[1]} only, "
                f"got {size_hw[0]}x{size_hw[1]}; export it with: {option}"
            )
        if size_hw == self.size_hw:  # which it was exported for, and perhaps with more maps than three
            return size_hw
        tokens = num_tokens(size_hw)
        if self.takes_all_queries and tokens < self.metadata.num_queries:
            raise InputError(
                f"{self.metadata.model} was exported with {counted(self.metadata.num_queries, 'query')}, and images of "
                f"{size_hw[0]}x{size_hw[1]} have only {tokens} places for them; give a larger size, or export it with "
                f"--queries {tokens}"
            )
        return size_hw

    def _batches(self, sources: Sequence[Any], size_hw: tuple[int, int], batch_size: int) -> Iterator[Batch]:
        """Prepare images in threads: those of the next batches while the network works on this one.

        An object that stands in several places is prepared once.
        """
        fewest, most = self.batch_sizes
        step = max(min(batch_size, most or batch_size), fewest)
        places = Counter(map(id, sources))  # that are still to come
        repeated: dict[int, Future[Prepared]] = {}
        with ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1)) as pool:
            ahead: deque[Future[Prepared]] = deque()
            submitted = 0
            for start in range(0, len(sources), step):
                end = min(start + step, len(sources))
                for source in sources[submitted : end + batch_size]:
                    key = id(source)
                    places[key] -= 1
                    future = repeated.pop(key, None) or pool.submit(self._prepared, source, size_hw)
                    if places[key]:
                        repeated[key] = future
                    ahead.append(future)
                    submitted += 1
                yield self.batch([_result(ahead.popleft(), place) for place in range(start, end)])

    def _prepared(self, source: Any, size_hw: tuple[int, int]) -> Prepared:
        return self.prepare(self.read(source), size_hw)


def _images(output: Output) -> Iterator[RawOutput | BoxOutput]:
    """The output of each image of a batch."""
    return (type(output)(*one) for one in zip(*output, strict=True))


def _result(prepared: Future[Prepared], position: int) -> Prepared:
    try:
        return prepared.result()
    except InputError as error:
        raise InputError(f"image {position} of the list: {error}") from None
