"""The job of an export: the prepared network, the metadata of the file, and the reference for the comparison."""

from typing import NamedTuple

from rtdetr._version import __version__
from rtdetr.config import pytorch_precision
from rtdetr.errors import ExportError, WeightsError
from rtdetr.export.graph import input_size, prepared
from rtdetr.export.options import ExportOptions
from rtdetr.export.source import Source
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.torch_detector import TorchDetector


class Job(NamedTuple):
    """An export, ready to be written.

    network: the network to export, from `prepared`; writers do not modify it.
    options: the options, including the format.
    metadata: description of the model, stored in the file.
    reference: the same network in float32, which the file is compared with.
    """

    network: RTDETR
    options: ExportOptions
    metadata: ExportMetadata
    reference: TorchDetector


def make_job(source: Source, options: ExportOptions) -> Job:
    """Prepare a model for its export.

    Raises:
        ConfigError: options do not fit the model.
    """
    network = prepared(source.model, options)
    reference = TorchDetector(
        network,
        source.categories,
        device="cpu",
        precision="float32",
        size_hw=input_size(network, options),
        one_label=options.one_label,
        nms_iou=options.nms_iou,
    )
    return Job(network, options, _describe(source, network, options), reference)


def check_finite(reference: TorchDetector, image: LoadedImage) -> None:
    """Refuse a network with non-finite output; some engines clip such values and then return plausible detections.

    Raises:
        ExportError: the network outputs NaN or infinity for the image.
    """
    try:
        reference(image, size_hw=reference.size_hw)
    except WeightsError as error:
        raise ExportError(
            f"nothing was written, because the output of the model itself is not finite: {error}"
        ) from None


def _describe(source: Source, network: RTDETR, options: ExportOptions) -> ExportMetadata:
    """Return the metadata to store in the file."""
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
        license=source.license,
        source_sha256=source.sha256,
        library_version=__version__,
    )
