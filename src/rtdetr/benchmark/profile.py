"""Profile a network: time per stage and per type of operator, and the floor of the machine.

The floor is the time that the network's convolutions and matrix products take in the same engine when each runs alone.
What the network takes beyond it goes to other operators, to copies between memory layouts and to the engine itself.
"""

import importlib
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.errors import InputError, require_extra
from rtdetr.images import ImageSource
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.outputs import Batch
from rtdetr.wording import text_table

ENGINES = {"TorchDetector": "torch", "OnnxDetector": "onnx", "OpenVINODetector": "openvino"}
"""Class of a detector: part of the name of the module that profiles it."""

_MAX_KINDS = 15  # rows of the table
_STAGE = re.compile(
    r"(?:^|[/ ])(backbone\.[a-z]+(?:_[a-z]+)?\d*(?:\.\d+)?|encoder\.[a-z_]+\.\d+|decoder\.decoder\.layers\.\d+"
    r"|decoder\.[a-z_]+(?:\.\d+)?)(?![0-9a-z])"
)


class Operation(NamedTuple):
    """An operator in one run of a network.

    name: its name in the graph, which begins with the name of its module; may be empty.
    kind: type of the operator.
    ms: time in milliseconds.
    """

    name: str
    kind: str
    ms: float


class EngineProfile(NamedTuple):
    """What an engine reports: the operators of each run, in order, and the floor in milliseconds, if it is known."""

    runs: list[list[Operation]]
    floor_ms: float | None


class Profile(NamedTuple):
    """Profile of one model.

    name: the caller's name of the model.
    description: model, precision, device and size.
    network_ms: median time of the network without profiling.
    floor_ms: time of the network's convolutions and matrix products when each runs alone; None for INT8 networks, and
        for ONNX files in float16.
    stages: median milliseconds per stage of the network, in network order; "other" holds operators outside of stages.
    kinds: median milliseconds and number of operators per type, slowest first.
    """

    name: str
    description: str
    network_ms: float
    floor_ms: float | None
    stages: dict[str, float]
    kinds: dict[str, tuple[float, int]]


def profile(
    name: str, detector: BaseDetector, photo: ImageSource, *, size_hw: tuple[int, int] | None = None, rounds: int = 10
) -> Profile:
    """Profile the network of a detector on one image.

    Args:
        name: name of the model in the result.
        detector: a detector for PyTorch, ONNX Runtime or OpenVINO.
        photo: the image.
        size_hw: input height and width; None: the detector's own.
        rounds: number of timed runs.

    Raises:
        InputError: it does not run on the CPU in a runtime that can be profiled, or does not support the size.
        MissingDependencyError: a package is missing; to profile .onnx files, `onnx`.
    """
    engine = engine_of(name, detector)
    batch = detector.batch([detector.prepare(detector.read(photo), detector.checked_size(size_hw))])
    times = []
    for turn in range(rounds + 2):
        start = time.perf_counter()
        detector.infer(batch)
        if turn >= 2:  # the first runs warm up
            times.append(time.perf_counter() - start)
    with require_extra():
        module: Any = importlib.import_module(f"rtdetr.benchmark.profile_{engine}")
    found: EngineProfile = module.profile_engine(detector, batch, rounds=rounds)
    return Profile(
        name=name,
        description=detector.description,
        network_ms=round(statistics.median(times) * 1e3, 3),
        floor_ms=None if found.floor_ms is None else round(found.floor_ms, 3),
        stages=_medians([_by_stage(run) for run in found.runs]),
        kinds=_by_kind(found.runs),
    )


def engine_of(name: str, detector: BaseDetector) -> str:
    """Return the engine that runs a detector, as in the names of the modules that profile it.

    Raises:
        InputError: it cannot be profiled.
    """
    engine = ENGINES.get(type(detector).__name__)
    is_converted = engine == "onnx" and Path(name).suffix.lower() == ".ort"
    if engine is None or is_converted or not detector.on_cpu:
        raise InputError(
            f"{name} cannot be profiled: only PyTorch models, .onnx and .xml files on the CPU can. Omit --profile, or "
            "use --device cpu"
        )
    return engine


def profile_table(found: Profile) -> str:
    """Format a profile: the network beside its floor, then its stages, then its types of operators."""
    lines = [f"{found.name}: {found.description}", f"network {found.network_ms:.1f} ms, {_floor_text(found)}"]
    stage_rows = [(name, f"{ms:.2f}") for name, ms in found.stages.items()]
    kind_rows = [(kind, str(count), f"{ms:.2f}") for kind, (ms, count) in list(found.kinds.items())[:_MAX_KINDS]]
    rest = list(found.kinds.values())[_MAX_KINDS:]
    if rest:
        kind_rows.append(("all others", str(sum(count for _, count in rest)), f"{sum(ms for ms, _ in rest):.2f}"))
    stages = text_table([("stage", "ms"), *stage_rows], right=[False, True])
    kinds = text_table([("operator", "number", "ms"), *kind_rows], right=[False, True, True])
    return "\n".join([*lines, stages, "", kinds])


def _floor_text(found: Profile) -> str:
    if found.floor_ms is None:
        return "floor not measured: only float32 operators, and those of PyTorch, are measured alone"
    above = found.network_ms - found.floor_ms
    return (
        f"floor {found.floor_ms:.1f} ms (convolutions and matrix products, each alone), above it {above:.1f} ms, "
        f"{found.network_ms / found.floor_ms:.2f}x the floor"
    )


def stage_of(name: str) -> str | None:
    """Return the stage of the network that an operator belongs to, from its name."""
    match = _STAGE.search(name)
    return match[1] if match else None


def median_ms(seconds: Iterable[float]) -> float:
    """Median of times, in milliseconds."""
    return statistics.median(seconds) * 1e3


def _by_stage(run: Sequence[Operation]) -> dict[str, float]:
    """Sum times per stage. Modules name their last operator, so an operator without a name belongs to the next one."""
    sums: dict[str, float] = defaultdict(float)
    waiting = 0.0
    for operation in run:
        stage = stage_of(operation.name)
        if stage is None:
            waiting += operation.ms
        else:
            sums[stage] += operation.ms + waiting
            waiting = 0.0
    sums["other"] += waiting
    return sums


def _medians(sums: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in sums for name in one)
    return {name: round(float(np.median([one.get(name, 0.0) for one in sums])), 3) for name in names}


def _by_kind(runs: Sequence[Sequence[Operation]]) -> dict[str, tuple[float, int]]:
    sums = []
    for run in runs:
        one: dict[str, float] = defaultdict(float)
        for operation in run:
            one[operation.kind] += operation.ms
        sums.append(one)
    medians = _medians(sums)
    counts = {kind: sum(operation.kind == kind for operation in runs[-1]) for kind in medians}
    return {kind: (medians[kind], counts[kind]) for kind in sorted(medians, key=lambda kind: -medians[kind])}


def feed_of(detector: Any, batch: Batch, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the inputs of an exported graph for a batch, by name."""
    from rtdetr.preprocessing import scale
    from rtdetr.runtimes.graph_form import IMAGES, SIZES

    pixels = batch.pixels if detector.metadata.preprocess == "in_graph" else scale(batch.pixels)
    values = {IMAGES: pixels, SIZES: batch.padded_sizes_wh}
    return {name: values[name] for name in names}
