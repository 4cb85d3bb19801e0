"""The path of an image through a detector, the same for every runtime; needs no torch.

    sources -> read ----> prepare -----> batch ----> infer ----> finish -------> Detections
    one, or    opened     stretched or   uint8       the         the best query-
    a list     once and   padded, uint8  (b, c,      network     class pairs, boxes
               upright    (c, h, w)      h, w)                   in pixels of the
               |-- in reading.py's --|                           original image
               |-- threads ----------|

`detect_each` runs all steps. A runtime is a subclass of `BaseDetector` that implements `infer`. The steps are public,
so that `rtdetr benchmark` measures the same code that detects.
"""

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import numpy as np

from rtdetr.categories import Categories
from rtdetr.detections import MAX_DETECTIONS, Detections, Detector
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.images import LoadedImage, read_image, size_of
from rtdetr.preprocessing import Preparation
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.options import DEFAULTS, LoadOptions, is_share, multiples_of_32, num_tokens, whole_number
from rtdetr.runtimes.outputs import Batch, BoxOutput, Output, RawOutput
from rtdetr.runtimes.reading import read_ahead
from rtdetr.runtimes.selection import Found, best_of_boxes, best_pairs, suppress
from rtdetr.runtimes.streams import Streams, run_in_threads
from rtdetr.wording import counted

Prepared = tuple[np.ndarray, tuple[int, int]]  # uint8 pixels for the engine; original width and height


class Seen(NamedTuple):
    """An opened image, or None if it was not requested, and its detections."""

    image: LoadedImage | None
    detections: Detections


class BaseDetector(Detector):
    """Base class of detectors; subclasses add the engine.

    Args:
        metadata: the network's classes, sizes and thresholds, and the processing steps that its graph includes.
        options: `one_label` and `nms_iou` are used here. If the graph outputs the best query-class pairs, `one_label`
            keeps the best class of each query among them. A graph exported with `one_label` needs no change.
    """

    where = "CPU"  # device and engine, for `description`
    num_threads: int | None = None  # number of CPU threads, if the engine reports it
    has_ranges = False  # dynamic axes have limits that are not in the metadata
    takes_all_queries = True  # exported graphs cannot run with fewer queries, which small images would need
    batch_sizes: tuple[int, int | None] = (1, None)  # minimum and maximum number of images per batch
    streams: Streams | None = None  # tuned settings for lists; None: the engine's own way
    has_own_streams = False  # the engine runs lists in streams also without tuned settings
    preparation = Preparation()  # how images are resized to the network's input

    def __init__(self, metadata: ExportMetadata, options: LoadOptions = DEFAULTS) -> None:
        self.process = os.getpid()  # the process that opened the engine
        self.metadata = metadata
        self.category_ids = tuple(metadata.category_ids)
        self.thresholds = metadata.thresholds
        self.size_hw = metadata.size_hw
        self.one_label = options.one_label or metadata.one_label
        self.nms_iou = options.nms_iou

    @property
    def categories(self) -> Categories:
        """Classes of the model by label, with the ids of the dataset it was trained on."""
        return self.metadata.categories

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.metadata.names

    @property
    def in_channels(self) -> int:
        """Number of image channels: 3 for RGB, 1 for grayscale, any other number as stored."""
        return self.metadata.in_channels

    def enter_process(self) -> None:
        """Make the engine usable if this process was forked from the one that opened it; called first by each call.

        Raises:
            InputError: the engine cannot be used in a forked process.
        """
        if self.process != os.getpid():
            self.enter_fork()

    def enter_fork(self) -> None:
        """Make the engine usable after a fork and set `process`; override it if an engine needs more."""
        self.process = os.getpid()

    @abstractmethod
    def infer(self, batch: Batch) -> Output:
        """Run the network and wait for its result."""

    def infer_all(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run the network on many batches, in order; a single batch always runs as in `infer`."""
        batches = iter(batches)
        start = list(islice(batches, 2 if self.streams is not None or self.has_own_streams else 0))
        if len(start) > 1:
            yield from self.infer_in_streams(chain(start, batches))
        else:
            for batch in chain(start, batches):
                yield batch, self.infer(batch)

    def infer_in_streams(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run the network on many batches, in order and several at once."""
        assert self.streams is not None
        return run_in_threads(self.infer, batches, num_threads=self.streams.num_streams)

    def use_streams(self, streams: Streams | None) -> None:
        """Run lists with these settings; None: in the engine's own way. `batch_sizes` are known.

        Raises:
            ConfigError: the network cannot run batches of this size.
        """
        if streams is None:
            return
        smallest, largest = self.batch_sizes
        if not smallest <= streams.batch_size <= (largest or streams.batch_size):
            limit = smallest if largest == smallest else f"up to {largest}"
            raise ConfigError(
                f"{self.metadata.model} runs only batches of {limit}, but the tuned settings have batch size "
                f"{streams.batch_size}; measure them again with: rtdetr benchmark MODEL --throughput --save-tuned"
            )
        self.streams, self.batch_sizes = streams, (smallest, streams.batch_size)

    @property
    def images_in_streams(self) -> int:
        """Number of images that run at the same time with tuned settings; 1 without."""
        return 1 if self.streams is None else self.streams.num_streams * self.streams.batch_size

    @property
    def on_cpu(self) -> bool:
        """Whether the network runs on the CPU."""
        return self.where.lower().startswith("cpu")

    @property
    def description(self) -> str:
        """One line: model, classes, precision, device, default size, resizing other than stretching, tuned settings."""
        size = f"{self.size_hw[0]}x{self.size_hw[1]}"
        images = "" if self.preparation == Preparation() else f", images {self.preparation}"
        lists = "" if self.streams is None else f", lists in {self.streams}"
        return (
            f"{self.metadata.model} ({counted(len(self.names), 'class')}) in {self.precision} on {self.where} at {size}"
            f"{images}{lists}"
        )

    @property
    def precision(self) -> str:
        """The precision in which the network runs, such as "float32"."""
        return self.metadata.precision

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.description}"

    def __call__(
        self,
        source: Any,
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch_size: int = 8,
    ) -> Detections | list[Detections]:
        """Detect objects in one or several images; see `rtdetr.Detector`."""
        if getattr(source, "ndim", 0) == 4:
            source = list(source)
        several = isinstance(source, list | tuple)
        seen = self.detect_each(
            source if several else [source],
            threshold=threshold,
            size_hw=size_hw,
            max_detections=max_detections,
            batch_size=batch_size,
        )
        found = [_detections(one, f"image {index} of the list: " if several else "") for index, one in enumerate(seen)]
        return found if several else found[0]

    def detect_each(
        self,
        sources: Sequence[Any],
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = MAX_DETECTIONS,
        batch_size: int = 8,
        keep_images: bool = False,
    ) -> Iterator[Seen | InputError]:
        """Detect objects in many images; only a few batches are in memory at a time.

        Args:
            sources: as for `rtdetr.Detector`, like all arguments that are not listed here.
            keep_images: return every image with its detections, for drawing.

        Returns:
            The detections of each image, in order, or the error if it cannot be read.

        Raises:
            InputError: an option is out of range.
            WeightsError: the output of the network is not finite.
        """
        self.enter_process()
        size_hw = self.checked_size(size_hw)
        thresholds = self.by_class(threshold)
        max_detections = whole_number(max_detections, "max_detections")
        batch_size = whole_number(batch_size, "batch_size")
        waiting: deque[LoadedImage | InputError | None] = deque()  # images with pending output, and errors, in order
        batches = self._batches(sources, waiting, size_hw=size_hw, batch_size=batch_size, keep_images=keep_images)
        for batch, output in self.infer_all(batches):
            for found in self.finish(output, batch.sizes_wh, thresholds=thresholds, max_detections=max_detections):
                while isinstance(image := waiting.popleft(), InputError):
                    yield image
                yield Seen(image, found)
        for error in waiting:
            assert isinstance(error, InputError)
            yield error

    def _batches(
        self,
        sources: Sequence[Any],
        waiting: "deque[LoadedImage | InputError | None]",
        *,
        size_hw: tuple[int, int],
        batch_size: int,
        keep_images: bool,
    ) -> Iterator[Batch]:
        """Yield batches of the images that can be read; append all images, or their errors, to `waiting`."""
        smallest, largest = self.batch_sizes
        group = max(min(batch_size, largest or batch_size), smallest)
        read = partial(self._read_and_prepare, size_hw=size_hw, keep_image=keep_images)
        for results in read_ahead(sources, read, group=group, ahead=max(batch_size, self.images_in_streams)):
            waiting.extend(one if isinstance(one, InputError) else one[1] for one in results)
            if prepared := [one[0] for one in results if not isinstance(one, InputError)]:
                yield self.batch(prepared)

    def _read_and_prepare(
        self, source: Any, *, size_hw: tuple[int, int], keep_image: bool
    ) -> tuple[Prepared, LoadedImage | None]:
        image = self.read(source)
        return self.prepare(image, size_hw), image if keep_image else None

    def read(self, source: Any) -> LoadedImage:
        """Open one image, as a PIL image in RGB, or as an array (h, w, c) if the model does not have three channels."""
        return read_image(source, num_channels=self.in_channels)

    def prepare(self, image: LoadedImage, size_hw: tuple[int, int]) -> Prepared:
        """Resize an image to the network's input, unless the graph resizes."""
        if self.metadata.preprocess == "in_graph":
            return np.asarray(image), size_of(image)
        return self.preparation.apply(image, size_hw), size_of(image)

    def batch(self, prepared: Sequence[Prepared]) -> Batch:
        """Stack images of one size; black images fill up the engine's minimum batch."""
        pixels = np.stack([image for image, _ in prepared]) if len(prepared) > 1 else prepared[0][0][None]
        missing = self.batch_sizes[0] - len(pixels)
        if missing > 0:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), dtype=np.uint8)])
        return Batch(pixels, np.array([size_wh for _, size_wh in prepared], dtype=np.int64))

    def finish(
        self, output: Output, sizes_wh: np.ndarray, *, thresholds: np.ndarray, max_detections: int = MAX_DETECTIONS
    ) -> list[Detections]:
        """Select the detections of each image of a batch.

        Raises:
            WeightsError: `output` is not finite, or its number of classes differs from the metadata.
        """
        if not all(np.isfinite(values).all() for values in output):
            raise WeightsError(
                f"the output of {self.description} contains NaN or infinity: its weights are damaged or too large"
                + ("" if self.precision == "float32" else ", or need a higher precision; try precision='float32'")
            )
        if isinstance(output, RawOutput) and output.logits.shape[-1] != len(self.names):
            raise WeightsError(
                f"the output of {self.description} has {counted(output.logits.shape[-1], 'class')}: the file is "
                "damaged, because its metadata and its network disagree; export the model again"
            )
        if isinstance(output, RawOutput) and self.preparation.size is not None:
            output = RawOutput(output.logits, output.boxes_cxcywh / self._content_fractions(sizes_wh))
        return [
            self._select(image, size_wh, thresholds, max_detections)
            for image, size_wh in zip(_images(output), sizes_wh, strict=False)  # a padded batch has more outputs
        ]

    def _content_fractions(self, sizes_wh: np.ndarray) -> np.ndarray:
        """Fraction of the padded input that each image covers, for the four numbers of a box: (b, 1, 4)."""
        height, width = self.size_hw
        contents = [self.preparation.content_hw((h, w), self.size_hw) for w, h in sizes_wh.tolist()]
        return np.array([[[w / width, h / height] * 2] for h, w in contents], dtype=np.float32)

    def _select(
        self, image: RawOutput | BoxOutput, size_wh: np.ndarray, thresholds: np.ndarray, max_detections: int
    ) -> Detections:
        if isinstance(image, RawOutput):
            lowest = float(thresholds.min())
            found = best_pairs(
                *image, size_wh=size_wh, max_detections=max_detections, one_label=self.one_label, lowest=lowest
            )
        else:
            self._check_labels(image.labels)
            one_label = self.one_label and not self.metadata.one_label
            found = best_of_boxes(Found(*image), max_detections=max_detections, one_label=one_label)
        found = found.take(found.scores > thresholds[found.labels])
        if self.nms_iou is not None:
            found = suppress(found, iou=self.nms_iou)
        width, height = size_wh.tolist()
        return Detections(found.boxes_xyxy, found.scores, found.labels, self.names, (width, height), self.category_ids)

    def _check_labels(self, labels: np.ndarray) -> None:
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise InputError(
                f"the output of {self.description} contains class {labels.max()}, but it has only "
                f"{counted(len(self.names), 'class name')}: pass the classes that the model was trained on"
            )

    def by_class(self, threshold: float | str) -> np.ndarray:
        """Return the score threshold of each class, float32 (k,).

        Raises:
            InputError: `threshold` is not in 0..1, or is "auto" and the model has no thresholds.
        """
        if threshold != "auto":
            if not is_share(threshold):
                raise InputError(f"threshold must be in 0..1 or 'auto', got {threshold!r}")
            return np.full(len(self.names), threshold, dtype=np.float32)
        if self.thresholds is None:
            raise InputError(
                "threshold 'auto' needs weights with a threshold per class, which these do not have. "
                "Measure and store them with: rtdetr evaluate MODEL DATA --save-thresholds"
            )
        return np.array(self.thresholds)

    def checked_size(self, size_hw: Any) -> tuple[int, int]:
        """Return the size to run at: `size_hw`, or the model's own size for None.

        Raises:
            InputError: `size_hw` is not two multiples of 32, or an exported graph or padding has another fixed size.
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
        if size_hw == self.size_hw:  # always valid; the model may have more than three maps
            return size_hw
        if self.preparation.size is not None:
            raise InputError(
                f"expected the size {self.size_hw[0]}x{self.size_hw[1]}, to which images are padded for this model, "
                f"got {size_hw[0]}x{size_hw[1]}; leave it out"
            )
        tokens = num_tokens(size_hw)
        if self.takes_all_queries and tokens < self.metadata.num_queries:
            raise InputError(
                f"{self.metadata.model} was exported with {counted(self.metadata.num_queries, 'query')}, and images of "
                f"{size_hw[0]}x{size_hw[1]} have only {tokens} tokens; pass a larger size, or export it with "
                f"--queries {tokens}"
            )
        return size_hw


def _images(output: Output) -> Iterator[RawOutput | BoxOutput]:
    """Split the output of a batch by image."""
    return (type(output)(*one) for one in zip(*output, strict=True))


def _detections(seen: Seen | InputError, where: str) -> Detections:
    if isinstance(seen, InputError):
        raise InputError(f"{where}{seen}") from None
    return seen.detections
