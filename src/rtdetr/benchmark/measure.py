"""Times of detectors: decoding, preprocessing, network and post-processing of a batch, and images a second of a list.

Every round runs all detectors once, so that a slow moment of the machine hits them alike. A stage ends when its result
is in main memory, so work of a GPU is waited for and counted.
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
    """One model at one batch size.

    Attributes:
        name: how the caller calls it.
        description: model, precision, device and size.
        precision: the type that the network computes in.
        num_threads: of the network on the CPU; None: not known.
        batch_size: images that go through together.
        size_hw: height and width of the network's input, pixels.
        stages: time of each stage for the whole batch.
        total: time of all stages together.
        images_per_second: in a long list, where engines overlap stages and images.
        peak_memory_mb: most memory of a process that only loads and runs this; None: not measured.
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
        detectors: by name.
        photos: contents of image files, or arrays; a batch takes as many as it needs, in turn.
        batch_sizes: images that go through together. A graph with a smaller batch runs several times.
        size_hw: height and width for the networks, multiples of 32; None: each one's own.
        rounds: timed runs of each detector.
        warmup: runs before these.
        memory_mb: what `peak_memory` measured for each name.

    Raises:
        InputError: no photos, counts that are not positive, or a size that a graph does not have.
    """
    if not photos or rounds < 1 or warmup < 0 or min(batch_sizes, default=0) < 1:
        raise InputError("expected photos, rounds and batch sizes of at least 1")
    sizes = {name: detector.checked_size(size_hw) for name, detector in detectors.items()}
    found = []
    for batch_size in batch_sizes:
        sources = [photos[place % len(photos)] for place in range(batch_size)]
        times: dict[str, list[list[float]]] = {name: [] for name in detectors}
        for turn in range(warmup + rounds):
            for name, detector in detectors.items():
                one = _timed(detector, sources, sizes[name])
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
                    stages={stage: Summary.of(stages[:, place]) for place, stage in enumerate(STAGES)},
                    total=Summary.of(stages.sum(axis=1)),
                    images_per_second=round(_throughput(detector, photos, batch_size, sizes[name]), 2),
                    peak_memory_mb=(memory_mb or {}).get(name),
                )
            )
    return found


def _timed(detector: BaseDetector, sources: Sequence[ImageSource], size_hw: tuple[int, int]) -> list[float]:
    """Seconds of each stage for one batch."""
    thresholds = detector.by_class(_THRESHOLD)
    step = detector.batch_sizes[1] or len(sources)
    marks = [time.perf_counter()]
    pictures = [detector.read(source) for source in sources]
    marks.append(time.perf_counter())
    prepared = [detector.prepare(picture, size_hw) for picture in pictures]
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
    """Images a second of a list of files in memory."""
    sources = [photos[place % len(photos)] for place in range(max(8, 3 * batch_size))]
    fixed = None if size_hw == detector.size_hw else size_hw
    detector(sources[:2] * batch_size, size_hw=fixed, batch_size=batch_size)  # some engines prepare for lists
    start = time.perf_counter()
    detector(sources, size_hw=fixed, batch_size=batch_size)
    return len(sources) / (time.perf_counter() - start)


def sample_photo(num_channels: int = 3, *, size_wh: tuple[int, int] = (1280, 960)) -> bytes | np.ndarray:
    """A JPEG file of soft colors, the same everywhere, for those who bring no photos.

    For a number of channels that JPEG does not have, an array (h, w, num_channels) of its colors in turn.
    """
    colors = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = Image.fromarray(colors).resize(size_wh, Image.Resampling.BICUBIC)
    if num_channels not in (1, 3):
        return np.asarray(photo)[:, :, np.arange(num_channels) % 3]
    file = io.BytesIO()
    photo.save(file, format="JPEG", quality=90)
    return file.getvalue()


def peak_memory(source: str, *, options: Mapping[str, object], batch_size: int) -> float | None:
    """Most memory, in MB, of a process of its own that loads a model and runs it; None where that is not known."""
    job = json.dumps({"source": source, "options": dict(options), "batch_size": batch_size})
    command = [sys.executable, "-m", "rtdetr.benchmark.memory", job]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    last = result.stdout.split()[-1:]
    return float(last[0]) if result.returncode == 0 and last and last[0] != "None" else None
