"""Time detectors: decoding, preprocessing, network and postprocessing of a batch, and the throughput of a list.

Every round runs all detectors once, so that a slow moment of the machine affects all of them. A stage ends when its
result is in main memory, so GPU work is included.
"""

import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images import ImageSource
from rtdetr.runtimes.base import BaseDetector

STAGES = ("decode", "preprocess", "network", "postprocess")
_MIN_SECONDS = 1.0  # minimum time for repeating a list; the median is reported
_THRESHOLD = 0.5


class Summary(NamedTuple):
    """Percentiles of a time, in milliseconds."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Summary":
        """Summarize measured times."""
        return cls(*(round(float(value) * 1e3, 3) for value in np.percentile(seconds, (50, 90, 99))))


@dataclass(frozen=True)
class Measurement:
    """Results of one model at one batch size.

    Attributes:
        name: the caller's name of the model.
        description: model, precision, device and size.
        precision: precision in which the network runs.
        num_threads: number of CPU threads of the network; None: unknown.
        batch_size: images per batch.
        size_hw: height and width of the network's input, pixels.
        stages: time per stage for the whole batch.
        total: time of all stages together.
        images_per_second: throughput on a long list, for which engines overlap stages and images.
        peak_memory_mb: peak memory of a process that only loads and runs this model; None: not measured.
    """

    name: str
    description: str
    precision: str
    num_threads: int | None
    batch_size: int
    size_hw: tuple[int, int]
    stages: Mapping[str, Summary]
    total: Summary
    images_per_second: float
    peak_memory_mb: float | None


def measure(
    detectors: Mapping[str, BaseDetector],
    photos: Sequence[ImageSource],
    *,
    batch_sizes: Sequence[int] = (1,),
    size_hw: tuple[int, int] | None = None,
    rounds: int = 30,
    warmup: int = 3,
    memory_mb: Mapping[str, float | None] | None = None,
) -> list[Measurement]:
    """Time detectors side by side.

    Args:
        detectors: detectors by name.
        photos: contents of image files, or arrays; batches use them in turn.
        batch_sizes: images per batch. A graph with a smaller batch runs several times.
        size_hw: height and width of the networks' input, multiples of 32; None: the default size of each.
        rounds: number of timed runs per detector.
        warmup: number of untimed warm-up runs.
        memory_mb: results of `peak_memory` by name.

    Raises:
        InputError: there are no photos, a count is not positive, or a graph does not support the size.
    """
    if not photos or rounds < 1 or warmup < 0 or min(batch_sizes, default=0) < 1:
        raise InputError(
            "expected at least one photo, and rounds and batch sizes of at least 1, got "
            f"{len(photos)} photos, {rounds} rounds, {warmup} warm-up runs and batch sizes {list(batch_sizes)}"
        )
    sizes = {name: detector.checked_size(size_hw) for name, detector in detectors.items()}
    found = []
    for batch_size in batch_sizes:
        sources = [photos[i % len(photos)] for i in range(batch_size)]
        times: dict[str, list[list[float]]] = {name: [] for name in detectors}
        for turn in range(warmup + rounds):
            for name, detector in detectors.items():
                one = _time_stages(detector, sources, sizes[name])
                if turn >= warmup:
                    times[name].append(one)
        for name, detector in detectors.items():
            stages = np.array(times[name])  # (rounds, stages)
            found.append(
                Measurement(
                    name=name,
                    description=detector.description,
                    precision=detector.precision,
                    num_threads=detector.num_threads,
                    batch_size=batch_size,
                    size_hw=sizes[name],
                    stages={stage: Summary.of(stages[:, i]) for i, stage in enumerate(STAGES)},
                    total=Summary.of(stages.sum(axis=1)),
                    images_per_second=round(_throughput(detector, photos, batch_size, sizes[name]), 2),
                    peak_memory_mb=(memory_mb or {}).get(name),
                )
            )
    return found


def _time_stages(detector: BaseDetector, sources: Sequence[ImageSource], size_hw: tuple[int, int]) -> list[float]:
    """Seconds per stage for one batch."""
    thresholds = detector.by_class(_THRESHOLD)
    step = detector.batch_sizes[1] or len(sources)
    marks = [time.perf_counter()]
    images = [detector.read(source) for source in sources]
    marks.append(time.perf_counter())
    prepared = [detector.prepare(image, size_hw) for image in images]
    batches = [detector.batch(prepared[start : start + step]) for start in range(0, len(prepared), step)]
    marks.append(time.perf_counter())
    outputs = [detector.infer(batch) for batch in batches]
    marks.append(time.perf_counter())
    for output, batch in zip(outputs, batches, strict=True):
        detector.finish(output, batch.sizes_wh, thresholds=thresholds)
    marks.append(time.perf_counter())
    return np.diff(marks).tolist()


def _throughput(
    detector: BaseDetector, photos: Sequence[ImageSource], batch_size: int, size_hw: tuple[int, int]
) -> float:
    """Images per second for a list of files in memory."""
    sources = [photos[i % len(photos)] for i in range(max(8, 3 * batch_size))]
    fixed = None if size_hw == detector.size_hw else size_hw
    detector(sources[:2] * batch_size, size_hw=fixed, batch_size=batch_size)  # warm-up: some engines prepare for lists
    seconds: list[float] = []
    while sum(seconds) < _MIN_SECONDS:
        start = time.perf_counter()
        detector(sources, size_hw=fixed, batch_size=batch_size)
        seconds.append(time.perf_counter() - start)
    return len(sources) / float(np.median(seconds))


def sample_photo(num_channels: int = 3, *, size_wh: tuple[int, int] = (1280, 960)) -> bytes | np.ndarray:
    """Return a generated JPEG file, the same on every machine, to benchmark without photos.

    For a number of channels that JPEG does not support, return an array (h, w, num_channels) that repeats its colors.
    """
    colors = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = Image.fromarray(colors).resize(size_wh, Image.Resampling.BICUBIC)
    if num_channels not in (1, 3):
        return np.asarray(photo)[:, :, np.arange(num_channels) % 3]
    file = io.BytesIO()
    photo.save(file, format="JPEG", quality=90)
    return file.getvalue()


def peak_memory(source: str, *, options: Mapping[str, object], batch_size: int) -> float | None:
    """Peak memory, in MB, of a separate process that loads and runs a model; None if it is unknown."""
    job = json.dumps({"source": source, "options": dict(options), "batch_size": batch_size})
    command = [sys.executable, "-m", "rtdetr.benchmark.memory", job]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    last = result.stdout.split()[-1:]
    return float(last[0]) if result.returncode == 0 and last and last[0] != "None" else None
