"""`rtdetr.export.export`: from a model to a file of any format that is compared with the model before it appears."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr import zoo
from rtdetr._version import __version__
from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.config import pytorch_precision
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ExportError, MissingDependencyError, WeightsError, naming_the_missing_extra
from rtdetr.export.graph import input_size, prepared
from rtdetr.export.options import ExportOptions, ExportResult
from rtdetr.export.pictures import built_in_pictures
from rtdetr.files import files_together, with_home
from rtdetr.images import read_picture
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import build_from, default_categories, drop_unused_rows, name_rows, read_checkpoint

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "tensorrt": ".engine", "torch": ".pt2"}


class Source(NamedTuple):
    """A model to export and what is known about it; `sha256` is that of its checkpoint."""

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None = None
    licence: str | None = None
    sha256: str | None = None


class RefusedExportError(ExportError):
    """An exported model that differs from the original by more than is allowed; `report` says how."""

    def __init__(self, message: str, report: Any) -> None:
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
    data: str | os.PathLike[str] | DetectionDataset | None = None,
    on_bad_image: str = "error",
    max_drop: float = 0.01,
) -> ExportResult:
    """Write a model as a file for another runtime.

    Args:
        model: a name, checkpoint or folder as `rtdetr.load` takes them, or a network.
        path: the file to write; a file that is there is replaced once the new one is complete.
        options: the format and its settings; None: ONNX for one 640x640 image in float32.
        check: compare its detections with those of the network in float32 first.
        images: pictures for the check; None: some of `data`, else built-in ones. INT8 is calibrated on them.
        data: a dataset for the check, to compare the average precision too. INT8 needs it, or `images`.
        on_bad_image: "error" or "skip" for its images that cannot be read; see `open_dataset`.
        max_drop: largest loss of AP that INT8 may cost; see `quantize`.

    Raises:
        RefusedExportError: the check found a difference beyond the tolerance; nothing was written.
        ExportError: the model cannot be exported so, its own output is not finite, or the file cannot be written.
        ConfigError: options that do not fit the model.
        InputError, DatasetError: an image or the dataset cannot be read, or has other classes; nothing was written.
        WeightsError: the checkpoint is missing, damaged or of another model.
        MissingDependencyError: the package that writes or runs the format is not installed.
    """
    options = options or ExportOptions()
    target = with_home(path)
    if target.suffix.lower() != SUFFIXES[options.format]:
        kind = next((kind for kind, suffix in SUFFIXES.items() if suffix == target.suffix.lower()), None)
        instead = f"; format {kind} has that ending" if kind else ""
        raise ExportError(
            f"{target}: expected a name ending in {SUFFIXES[options.format]} for format {options.format}{instead}"
        )
    if options.precision == "int8" and options.format in ("onnx", "openvino"):
        from rtdetr.export.quantize import quantize

        done = quantize(
            model,
            target,
            data=data,
            on_bad_image=on_bad_image,
            calibration=images,
            max_drop=max_drop,
            options=options,
        )
        return done.result._replace(report=done.report)
    write = _exporter(options.format)  # a missing package is told before the work
    source = open_source(model)
    metadata = describe(source, options)
    if check and data is not None:
        data = open_dataset(data, split="val", categories=source.categories, on_bad_image=on_bad_image)
    if check and images is not None:
        images = [read_picture(image, num_channels=source.model.config.in_channels) for image in images]
    reference = reference_of(source, options)
    check_finite(reference, (images or built_in_pictures(reference.in_channels))[0], size_hw=metadata.size_hw)
    with files_together(target, error=ExportError) as file:
        result = write(source.model, file, options=options, metadata=metadata)
        if check:
            result = result._replace(report=_checked(file, reference, options, images, data))
    return result._replace(path=target)


def open_source(
    source: str | os.PathLike[str] | RTDETR | Source,
    *,
    model: str | os.PathLike[str] | None = None,
    categories: GivenClasses | None = None,
    drop_unused: bool = False,
) -> Source:
    """Read a model with all that is known about it.

    Args:
        source: a name, checkpoint or folder as `rtdetr.load` takes them; a network; or what this function returned.
        model: as for `rtdetr.load`, for a name, checkpoint or folder.
        categories: as for `rtdetr.load`, for the same.
        drop_unused: leave out rows of the class heads that are of no class, as published models have them that were
            trained on category ids; see `rtdetr.weights.drop_unused_rows`.

    Raises:
        WeightsError: as for `export`.
        ConfigError: no such model or classes, or classes that are not those of the checkpoint.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, RTDETR):
        return Source(source, default_categories(source.config.num_classes))
    weights = read_checkpoint(source if isinstance(source, str) else Path(source), model=model)
    if categories is not None:
        weights = name_rows(weights, categories)
    if drop_unused:
        weights = drop_unused_rows(weights)
    network, classes = build_from(weights)
    return Source(network, classes, weights.thresholds, _licence(str(source)), checkpoint_sha256(weights.path))


def describe(source: Source, options: ExportOptions) -> ExportMetadata:
    """What the file will say about itself.

    Raises:
        ConfigError: options that do not fit the model.
    """
    network = prepared(source.model, options)
    config = network.config
    return ExportMetadata(
        model=config.name,
        names=tuple(source.categories.names),
        category_ids=tuple(source.categories.ids),
        size_hw=input_size(network, options),
        dynamic_batch=options.dynamic_batch,
        dynamic_size=options.dynamic_size,
        in_channels=config.in_channels,
        preprocess="in_graph" if options.preprocess else "external",
        postprocess=options.postprocess,
        mean=config.pixel_mean,
        std=config.pixel_std,
        thresholds=source.thresholds,
        precision=pytorch_precision(options.precision),
        num_queries=network.num_queries,
        one_label=options.one_label,
        licence=source.licence,
        source_sha256=source.sha256,
        library_version=__version__,
    )


def _exporter(kind: str) -> Callable[..., ExportResult]:
    """The function that writes a format; its packages are imported here."""
    try:
        with naming_the_missing_extra():
            if kind == "openvino":
                from rtdetr.export.openvino import export_openvino

                return export_openvino
            if kind == "tensorrt":
                from rtdetr.export.tensorrt import export_tensorrt

                return export_tensorrt
            if kind == "torch":
                from rtdetr.export.torch_export import export_torch

                return export_torch
            from rtdetr.export.onnx import export_onnx

            return export_onnx
    except MissingDependencyError as error:
        raise MissingDependencyError(f"export to {kind}: {error}") from None


def reference_of(source: Source, options: ExportOptions) -> TorchDetector:
    """What an export with these options is compared with: the network itself, in float32."""
    return TorchDetector(
        prepared(source.model, options),
        source.categories,
        device="cpu",
        precision="float32",
        size_hw=options.size_hw,
        one_label=options.one_label,
        nms_iou=options.nms_iou,
    )


def check_finite(reference: TorchDetector, image: Any, *, size_hw: tuple[int, int]) -> None:
    """Refuse a network whose own output is not finite; some engines clip such values, and their detections look sound.

    Raises:
        ExportError: it gives NaN or infinity for the image.
    """
    try:
        reference(image, size_hw=size_hw)
    except WeightsError as error:
        raise ExportError(f"nothing was written, as the model itself gives no finite numbers: {error}") from None


def _checked(
    file: Path, reference: TorchDetector, options: ExportOptions, images: Sequence[Any] | None, data: Any
) -> Any:
    """Compare a file with the network that it was made from."""
    from rtdetr.export.verify import RESIZED, TOLERANCES, verify

    tolerance = RESIZED if options.preprocess else TOLERANCES[options.precision]
    try:
        report = verify(file, reference, images=images, tolerance=tolerance, data=data)
    except WeightsError as error:  # it cannot be read: the engine is older than the format
        words = str(error).replace(f"{file.parent}{os.sep}", "")  # a folder that is gone by now
        hint = " A lower opset may help." if options.format == "onnx" else ""
        raise ExportError(f"the file does not load here, so it was not kept: {words}.{hint}") from None
    if not report.passed:
        raise RefusedExportError(f"the exported model is not the same model: {report.reason}", report)
    return report


def _licence(name: str) -> str | None:
    """The licence of a published checkpoint."""
    name, _, tag = name.partition(":")
    if name not in (*zoo.list_models(), *zoo.ALIASES):
        return None
    found = zoo.entry(name).checkpoints.get(tag or str(zoo.tag(name)))
    return found.licence if found else None


def checkpoint_sha256(path: Path) -> str | None:
    """Hash of a checkpoint's file; of the weights of a folder in Hugging Face's layout."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
