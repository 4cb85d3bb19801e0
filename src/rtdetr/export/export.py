"""`rtdetr.export.export`: a model as a file of any format, which is compared with the model before it appears."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError, ExportError, WeightsError
from rtdetr.export.formats import complete, writer_of
from rtdetr.export.job import Job, check_finite, make_job
from rtdetr.export.options import EngineOptions, ExportOptions
from rtdetr.export.quantize import Written, quantize
from rtdetr.export.report import VerifyReport
from rtdetr.export.samples import Data, Samples, open_samples
from rtdetr.export.source import Source, open_source
from rtdetr.export.verify import RESIZED, TOLERANCES, int8_tolerance, size_in_bytes, verify
from rtdetr.exported_files import exported_format
from rtdetr.files import files_together, with_home
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import ExportMetadata


class ExportResult(NamedTuple):
    """A finished export.

    path: the file.
    size_bytes: its size, with the weights where they are in a file of their own.
    num_nodes: operators in its graph; None where not counted.
    metadata: what it says about itself.
    report: of the comparison with the network in float32; None where there was none.
    kept_float: stages of an INT8 model that went back to float, in the order in which they did.
    """

    path: Path
    size_bytes: int
    num_nodes: int | None
    metadata: ExportMetadata
    report: VerifyReport | None = None
    kept_float: tuple[str, ...] = ()


class RefusedExportError(ExportError):
    """An exported model that differs from the original by more than is allowed; `report` says how."""

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
    """Write a model as a file for another runtime.

    Args:
        model: a name, checkpoint or folder as `rtdetr.load` takes them, or a network. For TensorRT also an `.onnx` file
            of this library, which is compiled as it is and not compared.
        path: the file to write; a file that is there is replaced once the new one is complete.
        options: the format and its settings; None: the format that `path` says, for one image in float32.
        check: compare its detections with those of the network in float32 first. INT8 always is compared.
        images: images for the check; None: some of `data`, else built-in ones. INT8 is calibrated on them.
        data: a dataset for the check, to compare the average precision on its split "val" too. INT8 needs it, or
            `images`; without `images` it is calibrated on its split "train".
        on_bad_image: "error" or "skip" for its images that cannot be read; see `open_dataset`.

    Raises:
        RefusedExportError: the check found a difference beyond the tolerance; nothing was written.
        ExportError: the model cannot be exported, its own output is not finite, or the file cannot be written.
        ConfigError: options that do not fit the format or the model.
        InputError, DatasetError: an image or the dataset cannot be read, or has other classes; nothing was written.
        WeightsError: the checkpoint is missing, damaged or of another model.
        MissingDependencyError: the package that writes or runs the format is not installed.
    """
    target = with_home(path)
    options = complete(options or ExportOptions(), target, has_images=images is not None or data is not None)
    write = writer_of(options)  # a missing package is told before the work
    if options.format == "tensorrt" and not isinstance(model, RTDETR | Source) and exported_format(model) == "onnx":
        return _compiled(Path(model), target, options, alone=not (images or data))
    is_int8 = options.precision == "int8"
    check = check or is_int8
    if not check:
        images, data = (images and images[:1]) or None, None
    job = make_job(open_source(model), options)
    samples = open_samples(job, images, data, on_bad_image=on_bad_image)
    check_finite(job.reference, samples.images[0])
    with files_together(target, error=ExportError) as file:
        written = quantize(job, samples, file, write) if is_int8 else Written(write(job, file))
        report = _checked(job, samples, file, written) if check else None
        size = size_in_bytes(file)
    return ExportResult(target, size, written.num_nodes, job.metadata, report, written.kept_float)


def _checked(job: Job, samples: Samples, file: Path, written: Written) -> VerifyReport:
    """Compare a file with the network that it was made from."""
    options = job.options
    is_int8 = options.precision == "int8"
    if is_int8:
        tolerance = int8_tolerance(options.int8_or_default.max_drop)
    else:
        tolerance = RESIZED if options.preprocess else TOLERANCES[options.precision]
    dataset = None if is_int8 else samples.dataset  # the AP of INT8 is known
    try:
        report = verify(file, job.reference, images=samples.images, tolerance=tolerance, data=dataset)
    except WeightsError as error:  # it cannot be read: the engine is older than the format
        words = str(error).replace(f"{file.parent}{os.sep}", "")  # a folder that is gone by now
        hint = " A lower opset may help." if options.format == "onnx" else ""
        raise ExportError(f"the file does not load here, so it was not kept: {words}.{hint}") from None
    if is_int8:
        report = replace(report, ap=written.ap, reference_ap=written.reference_ap)
    if not report.passed:
        raise RefusedExportError(
            f"{report.reason}, even with every stage in float"
            if is_int8
            else f"the exported model is not the same model: {report.reason}",
            report,
        )
    return report


def _compiled(graph: Path, target: Path, options: ExportOptions, *, alone: bool) -> ExportResult:
    """Compile an ONNX file for TensorRT as it is, without a comparison."""
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
            f"{graph} is compiled as it is: with an .onnx file, pass only --output, --workspace, --batch-range, "
            "--size-range and --timing-cache"
        )
    num_nodes, metadata = compile_onnx(graph, target, engine=engine)
    return ExportResult(target, size_in_bytes(target), num_nodes, metadata)
