"""INT8: a network in 8-bit integers, calibrated on pictures, with its average precision before and after.

The backbone, the encoder and the decoder's projections are quantised; the decoder itself stays in float, where 8 bits
cost most accuracy and gain least time. Where too much AP is lost, the stage that adds the largest error goes back to
float, and so on until the loss is small enough.

Weights use 7 of their 8 bits. Processors with AVX2 or AVX-512 but without VNNI add two products of 8 bits in 16 bits
and clip the sum: a file with full weights is right on one machine and may find nothing on another. With weights up to
64 no sum is clipped (2 * 255 * 64 < 32768), and the file means the same everywhere.
"""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError, ExportError, InputError, MissingSplitError, naming_the_missing_extra
from rtdetr.export.export import (
    SUFFIXES,
    RefusedExportError,
    Source,
    check_finite,
    describe,
    open_source,
    reference_of,
)
from rtdetr.export.layers import STAGE, stage_errors
from rtdetr.export.options import ExportOptions, ExportResult
from rtdetr.export.verify import (
    NUM_OF_DATASET,
    ROUNDING,
    VerifyReport,
    count_nodes,
    int8_tolerance,
    measure_ap,
    size_in_bytes,
    verify,
)
from rtdetr.files import files_together, with_home
from rtdetr.images import Picture, read_picture, size_of
from rtdetr.models import RTDETR
from rtdetr.preprocessing import preprocess, resize
from rtdetr.runtimes import load
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
Feed = dict[str, np.ndarray]
_ROOMS = ("backbone", "encoder", "decoder.input_proj")  # of the network, that may be quantised


class _Job(NamedTuple):
    """What every attempt at a file has in common; `options` are those of the float graph."""

    model: RTDETR
    options: ExportOptions
    metadata: ExportMetadata
    feeds: list[Feed]
    symmetric: bool


@dataclass(frozen=True)
class QuantizeResult:
    """Result of `quantize`.

    Attributes:
        result: the file.
        report: its comparison with the float32 network, with the AP of both.
        kept_float: stages that went back to float, in the order in which they did.
    """

    result: ExportResult
    report: VerifyReport
    kept_float: tuple[str, ...]


@pytorch_defaults()
def quantize(
    model: str | os.PathLike[str] | RTDETR | Source,
    path: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | DetectionDataset | None = None,
    on_bad_image: str = "error",
    calibration: Sequence[Any] | None = None,
    num_calibration: int = 100,
    max_drop: float = 0.01,
    options: ExportOptions | None = None,
    symmetric: bool = False,
) -> QuantizeResult:
    """Write a model in INT8 whose average precision is at most `max_drop` below that of the float32 network.

    Args:
        model: a name, checkpoint or folder as `rtdetr.load` takes them, or a network.
        path: the file to write, .onnx or .xml.
        data: a dataset; AP is measured on its split `val`. None: nothing is measured, and the loss is not bounded.
        on_bad_image: "error" or "skip" for its images that cannot be read; see `open_dataset`.
        calibration: pictures to find the range of each value with; None: those of the split `train` of `data`, else
            those AP is measured on.
        num_calibration: at most so many of them, evenly spread.
        max_drop: largest loss of AP, 0..1.
        options: format ("onnx" or "openvino"), size and axes; None: as `path` ends.
        symmetric: as TensorRT needs it, at a cost in accuracy: ranges around zero, and for ONNX float biases; sampling
            is by gathering.

    Raises:
        RefusedExportError: the loss is larger even with every stage in float; nothing was written.
        ExportError: the file cannot be written.
        ConfigError: settings that INT8 does not have.
        DatasetError: the dataset is missing or broken, or has other classes.
        InputError: an image that cannot be read, or nothing but images of one color to calibrate on.
        WeightsError: the checkpoint is missing, damaged or of another model.
        MissingDependencyError: onnxruntime, openvino or nncf is not installed.
    """
    target = with_home(path)
    options = _checked(options, target, num_calibration=num_calibration, max_drop=max_drop)
    if symmetric:  # TensorRT has compiled GridSample wrongly in this kind of network
        options = options.replace(gather_only=True)
    with naming_the_missing_extra():  # said before the work, not after it
        importlib.import_module(_PACKAGES[options.format])
    source = open_source(model)
    metadata = describe(source, options)
    float_options = options.replace(precision="fp32")
    reference = reference_of(source, float_options.replace(size_hw=metadata.size_hw))
    dataset = None if data is None else open_dataset(data, split="val", on_bad_image=on_bad_image)
    known = _pictures(calibration, data, dataset, on_bad_image=on_bad_image)
    channels = metadata.in_channels
    feeds = [_feed(one, metadata.size_hw, options) for one in _spread(known, num_calibration, channels)]
    if all(np.ptp(feed["images"], axis=(2, 3)).max() == 0 for feed in feeds):
        raise InputError(
            f"cannot calibrate on {counted(len(feeds), 'image')} of one color each: give images such as the model is "
            "meant for, a hundred if you can"
        )
    job = _Job(source.model, float_options, metadata, feeds, symmetric)
    compared = list(_spread(dataset or known, NUM_OF_DATASET, channels))
    check_finite(reference, compared[0], size_hw=metadata.size_hw)
    before = measure_ap(reference, dataset) if dataset else None
    stages = _stages(reference.network)
    kept: list[str] = []
    with files_together(target, error=ExportError) as file:
        while True:
            _WRITERS[options.format](file, [stage for stage in stages if stage not in kept], job)
            after = measure_ap(load(file, device="cpu"), dataset) if dataset else None
            if before is None or after is None or before - after <= max_drop + ROUNDING or len(kept) == len(stages):
                break
            _log.info("AP falls by %.4f with %d stages in INT8", before - after, len(stages) - len(kept))
            errors = stage_errors(file, reference.network, resize(compared[0], metadata.size_hw))
            kept.append(_worst(errors or {}, stages, kept))
        report = verify(file, reference, tolerance=int8_tolerance(max_drop), images=compared)
        report = replace(report, ap=after, reference_ap=before)
        if not report.passed:
            raise RefusedExportError(f"{report.reason}, even with every stage in float", report)
        result = ExportResult(target, size_in_bytes(file), count_nodes(file), metadata)
    return QuantizeResult(result, report, tuple(kept))


def _checked(options: ExportOptions | None, target: Path, *, num_calibration: int, max_drop: float) -> ExportOptions:
    formats = {SUFFIXES[kind]: kind for kind in ("onnx", "openvino")}
    if target.suffix.lower() not in formats:
        raise ConfigError(f"expected a file that ends in {' or '.join(formats)}, got {target}")
    if num_calibration < 1 or not 0 <= max_drop <= 1:
        raise ConfigError(f"num_calibration must be positive and max_drop in 0..1, got {num_calibration}, {max_drop}")
    options = (options or ExportOptions()).replace(format=formats[target.suffix.lower()], precision="int8")
    if options.preprocess:
        raise ConfigError("a graph that resizes cannot be quantised here: leave preprocess out")
    return options


def _stages(network: RTDETR) -> list[str]:
    """What may be quantised, in the order of the network."""
    names = [match[1] for name, _ in network.named_modules() if (match := STAGE.search(name))]
    return [name for name in names if name.startswith(_ROOMS)]


def _worst(errors: dict[str, float], stages: list[str], kept: list[str]) -> str:
    """The quantised stage that adds most error to what came before it."""
    added, before = {}, 0.0
    for stage, error in errors.items():
        if stage in stages and stage not in kept:
            added[stage] = error - before
        before = error
    return max(added, key=lambda stage: added[stage]) if added else next(s for s in stages if s not in kept)


def _pictures(
    calibration: Sequence[Any] | None,
    data: str | os.PathLike[str] | DetectionDataset | None,
    dataset: DetectionDataset | None,
    *,
    on_bad_image: str,
) -> "Sequence[Any] | DetectionDataset":
    """Pictures to calibrate on: those given, or those of the dataset to train on."""
    if calibration is not None and not calibration:
        raise InputError("expected at least one picture to calibrate on, got none")
    if calibration is not None:
        return calibration
    if data is None or dataset is None:
        raise ConfigError("INT8 is calibrated on pictures: give a dataset, which AP is measured on too, or pictures")
    if isinstance(data, DetectionDataset):
        return dataset
    try:
        return open_dataset(data, split="train", on_bad_image=on_bad_image)
    except MissingSplitError:
        return dataset


def _spread(pictures: "Sequence[Any] | DetectionDataset", count: int, num_channels: int) -> Iterator[Picture]:
    """At most so many of the pictures, spread evenly."""
    for index in np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int).tolist():
        if isinstance(pictures, DetectionDataset):
            yield pictures.picture(index, num_channels=num_channels)
        else:
            yield read_picture(pictures[index], num_channels=num_channels)


def _feed(image: Picture, size_hw: tuple[int, int], options: ExportOptions) -> Feed:
    feed = {"images": preprocess(image, size_hw)[None]}
    return feed if options.postprocess == "raw" else {**feed, "orig_target_sizes": np.array([size_of(image)])}


def _belongs(name: str, stages: Sequence[str]) -> bool:
    return any(name == stage or name.startswith(f"{stage}.") for stage in stages)


def _write_onnx(file: Path, stages: list[str], job: _Job) -> None:
    """Static quantisation of ONNX Runtime: QuantizeLinear and DequantizeLinear around convolutions and products."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from rtdetr.export.onnx import export_onnx

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[Feed] = iter(job.feeds)

        def get_next(self) -> Feed | None:  # type: ignore[reportIncompatibleMethodOverride]  # None ends it
            return next(self.feeds, None)

    export_onnx(job.model, file, options=job.options, metadata=job.metadata)
    graph = onnx.load(file)
    wanted = [node.name for node in graph.graph.node if _belongs(node.name, stages)]
    if not wanted:
        return
    with _without_advice():
        quantize_static(
            graph,
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=wanted,
            activation_type=QuantType.QInt8 if job.symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits, see the top of this file
            extra_options={
                "ActivationSymmetric": job.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not job.symmetric,  # TensorRT has no biases of 32-bit integers
            },
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep back ONNX Runtime's advice to fold the graph first, which this one does not need."""

    def is_no_advice(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    logging.getLogger().addFilter(is_no_advice)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_no_advice)


def _write_openvino(file: Path, stages: list[str], job: _Job) -> None:
    """NNCF's post-training quantisation: FakeQuantize operations that OpenVINO runs in integers."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    from rtdetr.export.openvino import convert, save_ir

    logging.getLogger("nncf").setLevel(logging.ERROR)  # it names every operation that it leaves alone
    model = convert(job.model, job.options)
    ignored = [
        op.get_friendly_name()
        for op in model.get_ops()
        if not any(
            _belongs(name.removesuffix("/WithoutBiases"), stages)
            for name in (op.get_friendly_name(), *(name for out in op.outputs() for name in out.get_names()))
        )
    ]
    if stages:
        presets = nncf.QuantizationPreset
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar
            model = nncf.quantize(
                model,
                nncf.Dataset(job.feeds),
                preset=presets.PERFORMANCE if job.symmetric else presets.MIXED,
                subset_size=len(job.feeds),
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),  # 7 bits
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            )
    save_ir(model, file, metadata=job.metadata, half=False)


_WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino}
_PACKAGES = {"onnx": "onnxruntime", "openvino": "nncf"}
