"""Search for the settings with the highest throughput for a list of images on a CPU.

Every setting is a number of streams that share the cores, and a batch size. Each round measures all settings once, so
that a slow moment of the machine affects all of them, and medians are reported.
"""

import copy
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.benchmark.profile import ENGINES
from rtdetr.errors import ConfigError, InputError
from rtdetr.images import ImageSource
from rtdetr.machine import num_cores
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.streams import Streams
from rtdetr.runtimes.tuned_file import TunedSettings, save_tuned
from rtdetr.wording import text_table

BATCH_SIZES = (1, 2, 4, 8)
_WAVES = 4  # batches per stream in a measured list, which also begins and ends with idle streams
_SHORTEST = 16  # images in a measured list
_NOISE = 0.02  # smaller relative differences do not count


@dataclass(frozen=True)
class Setting:
    """Results of one setting: medians of all rounds.

    Attributes:
        streams: the setting.
        latency_ms: time from the start of a batch to its result while all streams are busy, network only.
        network_images_per_second: throughput of the network on prepared images.
        images_per_second: throughput from files in memory to detections.
        ratio: `images_per_second`, relative to one stream with the smallest batch, which is the first setting.
    """

    streams: Streams
    latency_ms: float
    network_images_per_second: float
    images_per_second: float
    ratio: float


class Throughput(NamedTuple):
    """Results of the search for one model.

    name: the caller's name of the model.
    description: model, precision, device and size.
    precision: precision in which the network runs.
    size_hw: height and width of the network's input.
    settings: all settings, in the order of their streams and batch sizes.
    """

    name: str
    description: str
    precision: str
    size_hw: tuple[int, int]
    settings: list[Setting]

    @property
    def best_throughput(self) -> Setting:
        """The highest throughput; of settings within 2 % of it, the one with the lowest latency."""
        highest = max(one.images_per_second for one in self.settings)
        close = [one for one in self.settings if one.images_per_second >= (1 - _NOISE) * highest]
        return min(close, key=lambda one: one.latency_ms)

    @property
    def best_latency(self) -> Setting:
        """The lowest latency; of settings within 2 % of it, the first, which has the fewest streams and images."""
        lowest = min(one.latency_ms for one in self.settings)
        return next(one for one in self.settings if one.latency_ms <= (1 + _NOISE) * lowest)

    def to_json(self) -> dict[str, Any]:
        """Return all results as plain data."""
        rows = {"best_throughput": _row(self.best_throughput), "best_latency": _row(self.best_latency)}
        content = self._asdict() | {"size_hw": list(self.size_hw), "settings": [_row(one) for one in self.settings]}
        return content | rows


def measure_throughput(
    name: str,
    detector: BaseDetector,
    photos: Sequence[ImageSource],
    *,
    open_with: Callable[[Streams], BaseDetector],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    cores: int | None = None,
    size_hw: tuple[int, int] | None = None,
    rounds: int = 5,
) -> Throughput:
    """Measure all settings of one model.

    Args:
        name: name of the model in the result.
        detector: the model without tuned settings.
        photos: contents of image files, or arrays; lists use them in turn.
        open_with: loads the model with a setting.
        batch_sizes: images per batch. The smallest that the model can run is always measured, others only if its batch
            is dynamic.
        cores: number of cores that the streams share; None: all that this process can use.
        size_hw: height and width of the network's input; None: the model's own.
        rounds: number of timed rounds; an untimed one comes first.

    Raises:
        ConfigError: the runtime has no streams, or does not run on the CPU.
        InputError: there are no photos, a count is not positive, or the model does not support the size.
    """
    check_has_streams(name, detector)
    if not photos or rounds < 1 or min(batch_sizes, default=0) < 1:
        raise InputError(
            "expected at least one photo, and rounds and batch sizes of at least 1, got "
            f"{len(photos)} photos, {rounds} rounds and batch sizes {list(batch_sizes)}"
        )
    used_hw = detector.checked_size(size_hw)
    sizes = _possible(detector, batch_sizes)
    runs: list[_Run] = []
    for num_streams, num_threads in shares_of(cores or num_cores()):
        streams = Streams(num_streams=num_streams, num_threads=num_threads, batch_size=sizes[-1])
        opened = open_with(streams)
        runs += [_Run(opened, streams.replace(batch_size=size), photos, used_hw) for size in sizes]
    for turn in range(1 + rounds):
        for run in runs:
            run.measure(keep=turn > 0)
    first = statistics.median(run.images_per_second for run in runs[0].rounds)
    settings = [run.result(first) for run in runs]
    return Throughput(name, detector.description, detector.precision, used_hw, settings)


def check_has_streams(name: str, detector: BaseDetector) -> None:
    """Check that a detector can run lists in streams.

    Raises:
        ConfigError: the runtime has no streams, or does not run on the CPU.
    """
    if type(detector).__name__ not in ENGINES or not detector.on_cpu:
        raise ConfigError(
            f"{name} has no streams: only PyTorch models, .onnx and .xml files on the CPU have. Omit --throughput, or "
            "use --device cpu"
        )


def shares_of(cores: int) -> list[tuple[int, int]]:
    """Return numbers of streams and of threads per stream that use the cores: powers of two, and one per core."""
    counts = {2**power for power in range(cores.bit_length())} | {cores}
    return [(count, cores // count) for count in sorted(counts)]


def save_best(model: Path, found: Throughput) -> Path:
    """Write the setting with the highest throughput beside a model file, for `rtdetr.load(..., tuned=True)`.

    Raises:
        ConfigError: `model` is not a file, or the settings cannot be written.
    """
    best = found.best_throughput
    settings = TunedSettings.of_model(
        model,
        best.streams,
        precision=found.precision,
        size_hw=found.size_hw,
        images_per_second=best.images_per_second,
        ratio=best.ratio,
    )
    return save_tuned(model, settings)


def throughput_table(found: Throughput) -> str:
    """Format the results: a table of all settings, then the best for throughput and the best for latency."""
    rows: list[tuple[str, ...]] = [("streams", "threads", "batch", "latency ms", "network/s", "images/s", "ratio")]
    for one in found.settings:
        counts = (one.streams.num_streams, one.streams.num_threads, one.streams.batch_size)
        speeds = (one.latency_ms, one.network_images_per_second, one.images_per_second)
        rows.append((*map(str, counts), *(f"{value:.1f}" for value in speeds), f"{one.ratio:.2f}x"))
    fastest, quickest = found.best_throughput, found.best_latency
    return "\n".join(
        [
            f"{found.name}: {found.description}",
            text_table(rows, right=[True] * len(rows[0])),
            "threads per stream; latency of a batch, network only, while all streams run; images/s of the network, and "
            "from files in memory to detections, with its ratio to the first row",
            f"highest throughput: {fastest.streams}: {fastest.images_per_second:.1f} images/s ({fastest.ratio:.2f}x)",
            f"lowest latency: {quickest.streams}: {quickest.latency_ms:.1f} ms",
        ]
    )


class _Round(NamedTuple):
    latency_s: float
    network_images_per_second: float
    images_per_second: float


class _Run:
    """One setting, and its measured rounds."""

    def __init__(
        self, detector: BaseDetector, streams: Streams, photos: Sequence[ImageSource], size_hw: tuple[int, int]
    ) -> None:
        self.detector, self.streams, self.size_hw = detector, streams, size_hw
        self.rounds: list[_Round] = []
        size = streams.batch_size
        count = max(_SHORTEST // size, _WAVES * streams.num_streams)  # batches
        self.sources = [_copy(photos[i % len(photos)]) for i in range(count * size)]
        prepared = [detector.prepare(detector.read(photo), size_hw) for photo in photos[: count * size]]
        images = [prepared[i % len(prepared)] for i in range(count * size)]
        self.batches = [detector.batch(images[start : start + size]) for start in range(0, len(images), size)]

    def measure(self, *, keep: bool) -> None:
        """Measure once; keep the result, or use the run as a warm-up."""
        fixed = None if self.size_hw == self.detector.size_hw else self.size_hw
        together = self.batches[: self.streams.num_streams]
        latency = _seconds(lambda: deque(self.detector.infer_all(together), maxlen=0))
        network = _seconds(lambda: deque(self.detector.infer_all(self.batches), maxlen=0))
        size = self.streams.batch_size
        total = _seconds(lambda: self.detector(self.sources, size_hw=fixed, batch_size=size))
        if keep:
            self.rounds.append(_Round(latency, len(self.sources) / network, len(self.sources) / total))

    def result(self, first: float) -> Setting:
        """Return the medians; `first` is the throughput that `ratio` compares with, in images/s."""
        latency, network, total = (statistics.median(column) for column in zip(*self.rounds, strict=True))
        return Setting(
            streams=self.streams,
            latency_ms=round(1e3 * latency, 3),
            network_images_per_second=round(network, 3),
            images_per_second=round(total, 3),
            ratio=round(total / first, 3),
        )


def _possible(detector: BaseDetector, batch_sizes: Sequence[int]) -> list[int]:
    """Return the batch sizes that a model can run: the smallest first, and the wanted ones if its batch is dynamic."""
    metadata = detector.metadata
    is_free = metadata.dynamic_batch and metadata.preprocess == "external"
    return sorted({1, *batch_sizes}) if is_free else [detector.batch_sizes[0]]


def _copy(photo: ImageSource) -> ImageSource:
    """Return a photo as another object, because a detector reads an object that occurs several times only once."""
    return bytes(bytearray(photo)) if isinstance(photo, bytes) else copy.copy(photo)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(setting: Setting) -> dict[str, Any]:
    values = asdict(setting)
    return values.pop("streams").model_dump() | values
