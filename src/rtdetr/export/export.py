"""`rtdetr.export.export`: write a model to a file of any format, after comparing the file with the model."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError, ExportError, WeightsError
from rtdetr.export.formats import complete, writer_of
from rtdetr.export.job import Job, Source, check_finite, make_job, open_source
from rtdetr.export.options import EngineOptions, ExportOptions
from rtdetr.export.quantize import Written, quantize
from rtdetr.export.report import VerifyReport
from rtdetr.export.samples import Data, Samples, open_samples
from rtdetr.export.verify import RESIZED, TOLERANCES, int8_tolerance, size_in_bytes, verify
from rtdetr.exported_files import exported_format
from rtdetr.files import files_together, with_home
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import ExportMetadata


class ExportResult(NamedTuple):
    """A finished export.

    path: the exported file.
    size_bytes: its size, including a separate file of weights.
    num_nodes: number of operators in its graph; None if not counted.
    metadata: description of the model, stored in the file.
    report: report of the comparison with the float32 network; None if it was not compared.
    kept_float: stages of an INT8 model that were returned to float, in that order.
    """

    path: Path
    size_bytes: int
    num_nodes: int | None
    metadata: ExportMetadata
    report: VerifyReport | None = None
    kept_float: tuple[str, ...] = ()


class RefusedExportError(ExportError):
    """An exported model differs from the original by more than the tolerance; see `report`."""

    def __init__(self, message: str, report: VerifyReport) -> None:
        super().__init__(message)
        self.report = report


@pytorch_defaults()
def export(
    model: str | os.PathLike[str] | RTDETR | Source,
    path: str | os.PathLike[str],
    *,
    options: ExportOptions | None = None,
    check: bool = False,
    images: Sequence[Any] | None = None,
    data: Data | None = None,
    on_bad_image: str = "error",
) -> ExportResult:
    """Export a model to a file for another runtime.

    Args:
        model: a name, checkpoint or folder as for `rtdetr.load`, or a network. For TensorRT also an `.onnx` file
            written by this library, which is compiled unchanged and not compared.
        path: the file to write; an existing file is replaced when the new one is complete.
        options: the format and its settings; None: the format of the extension of `path`, for one image in float32.
        check: compare its detections with those of the float32 network first. INT8 is always compared.
        images: images for the check; None: some of `data`, otherwise built-in ones. INT8 is calibrated on them.
        data: dataset for the check, to also compare average precision on its "val" split. INT8 needs it or `images`;
            without `images`, INT8 is calibrated on its "train" split.
        on_bad_image: "error" or "skip", for images of `data` that cannot be read; see `open_dataset`.

    Raises:
        RefusedExportError: the check found differences beyond the tolerance; nothing was written.
        ExportError: the model cannot be exported, its own output is not finite, or the file cannot be written.
        ConfigError: options do not fit the format or the model.
        InputError, DatasetError: an image or the dataset cannot be read, or has other classes; nothing was written.
        WeightsError: the checkpoint is missing, damaged or of another model.
        MissingDependencyError: a package that writes or runs the format is not installed.
    """
    target = with_home(path)
    options = complete(options or ExportOptions(), target, has_images=images is not None or data is not None)
    write = writer_of(options)  # first, so that a missing package is an error before the work
    if options.format == "tensorrt" and not isinstance(model, RTDETR | Source) and exported_format(model) == "onnx":
        return _compile_onnx(Path(model), target, options, alone=not (images or data))
    is_int8 = options.precision == "int8"
    check = check or is_int8
    if not check:
        images, data = (images and images[:1]) or None, None
    job = make_job(open_source(model), options)
    samples = open_samples(job, images, data, on_bad_image=on_bad_image)
    check_finite(job.reference, samples.images[0])
    with files_together(target, error=ExportError) as file:
        written = quantize(job, samples, file, write) if is_int8 else Written(write(job, file))
        report = _check(job, samples, file, written) if check else None
        size = size_in_bytes(file)
    return ExportResult(target, size, written.num_nodes, job.metadata, report, written.kept_float)


def _check(job: Job, samples: Samples, file: Path, written: Written) -> VerifyReport:
    """Compare a file with the network it was exported from."""
    options = job.options
    is_int8 = options.precision == "int8"
    if is_int8:
        tolerance = int8_tolerance(options.int8_or_default.max_drop)
    else:
        tolerance = RESIZED if options.preprocess else TOLERANCES[options.precision]
    dataset = None if is_int8 else samples.dataset  # AP of INT8 has already been measured
    try:
        report = verify(file, job.reference, images=samples.images, tolerance=tolerance, data=dataset)
    except WeightsError as error:  # it cannot be read: the installed runtime is older than the format
        reason = str(error).replace(f"{file.parent}{os.sep}", "")  # the name of the temporary folder
        hint = " A lower opset may help." if options.format == "onnx" else ""
        raise ExportError(
            f"the exported file does not load on this machine and was not kept: {reason}.{hint}"
        ) from None
    if is_int8:
        report = replace(report, ap=written.ap, reference_ap=written.reference_ap)
    if not report.passed:
        raise RefusedExportError(
            f"{report.reason}, even with every stage in float"
            if is_int8
            else f"the exported model differs from the original: {report.reason}",
            report,
        )
    return report


def _compile_onnx(graph: Path, target: Path, options: ExportOptions, *, alone: bool) -> ExportResult:
    """Compile an ONNX file for TensorRT unchanged, without a comparison."""
    from rtdetr.export.tensorrt import compile_onnx

    engine = options.engine or EngineOptions()
    sides = engine.height and engine.width and (engine.height[1], engine.width[1])
    expected = ExportOptions(
        format="tensorrt",
        engine=options.engine,
        dynamic_batch=engine.batch is not None,
        dynamic_size=sides is not None,
        size_hw=sides,
    )
    if not alone or options != expected:
        raise ConfigError(
            f"{graph} is compiled unchanged: with an .onnx file, pass only --output, --workspace, --batch-range, "
            "--size-range and --timing-cache"
        )
    num_nodes, metadata = compile_onnx(graph, target, engine=engine)
    return ExportResult(target, size_in_bytes(target), num_nodes, metadata)
