"""The model to export: `open_source` reads it with its metadata, `make_job` prepares it for the writer of a format."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from rtdetr import zoo
from rtdetr._version import __version__
from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.config import pytorch_precision
from rtdetr.errors import ConfigError, ExportError, WeightsError
from rtdetr.export.options import ExportOptions
from rtdetr.files import sha256_of
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR, fuse
from rtdetr.models.decoder import level_sizes
from rtdetr.models.deformable_attention import DeformableAttention
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import build_from, default_categories, drop_unused_rows, name_rows, read_checkpoint
from rtdetr.weights.huggingface import WEIGHTS

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A model to export, with its metadata; `sha256` is the hash of its checkpoint."""

    model: RTDETR
    categories: Categories
    thresholds: tuple[float, ...] | None = None
    license: str | None = None
    sha256: str | None = None


def open_source(
    source: str | os.PathLike[str] | RTDETR | Source,
    *,
    model: str | os.PathLike[str] | None = None,
    categories: GivenClasses | None = None,
    drop_unused: bool = False,
) -> Source:
    """Read a model and its metadata.

    Args:
        source: a name, checkpoint or folder as for `rtdetr.load`; a network; or a result of this function.
        model: as for `rtdetr.load`, if `source` is a name, checkpoint or folder.
        categories: as for `rtdetr.load`, if `source` is a name, checkpoint or folder.
        drop_unused: remove rows of the class heads that belong to no class, which published models trained on category
            ids have; see `rtdetr.weights.drop_unused_rows`.

    Raises:
        WeightsError: the checkpoint is missing, damaged or of another model.
        ConfigError: the model or classes do not exist, or the classes do not fit the checkpoint.
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
    if classes == Categories.numbered(len(classes)):
        _log.warning(
            "%s does not name its classes, so they are called 'class 0' and so on in the exported file. Pass their "
            "names with --classes FILE (Python: open_source(model, categories=...))",
            source,
        )
    return Source(network, classes, weights.thresholds, _license(str(source)), checkpoint_sha256(weights.path))


def _license(name: str) -> str | None:
    """Return the license of a published checkpoint; None for other models."""
    name, _, tag = name.partition(":")
    if name not in (*zoo.list_models(), *zoo.ALIASES):
        return None
    found = zoo.entry(name).checkpoints.get(tag or str(zoo.tag(name)))
    return found.license if found else None


def checkpoint_sha256(path: Path) -> str | None:
    """Return the hash of a checkpoint file, or of the weights in a Hugging Face folder; None if there is no file."""
    file = path / WEIGHTS if path.is_dir() else path
    return sha256_of(file) if file.is_file() else None


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
    size_hw = input_size(network, options)
    reference = TorchDetector(
        network,
        source.categories,
        device="cpu",
        precision="float32",
        size_hw=size_hw,
        one_label=options.one_label,
        nms_iou=options.nms_iou,
    )
    config = network.config
    metadata = ExportMetadata(
        model=config.name,
        names=tuple(source.categories.names),
        category_ids=tuple(source.categories.ids),
        size_hw=size_hw,
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
    return Job(network, options, metadata, reference)


def prepared(model: RTDETR, options: ExportOptions) -> RTDETR:
    """Return a fused float32 copy with the layers, queries and sampling of `options`.

    Decoder layers after the evaluated one are removed. The model's own number of queries is limited to the number of
    tokens of an image of `input_size`.

    Raises:
        ConfigError: more layers than the model has, or more queries than an image has tokens.
    """
    network = fuse(model).float().cpu()
    decoder = network.decoder
    available = len(decoder.decoder.layers)
    if options.num_layers is not None and options.num_layers > available:
        raise ConfigError(
            f"num_layers (--layers): expected at most {available}, which the model has, got {options.num_layers}"
        )
    count = options.num_layers or decoder.config.eval_idx % available + 1
    decoder.config = decoder.config.replace(num_layers=count, eval_idx=count - 1)
    for layers in (decoder.decoder.layers, decoder.dec_score_head, decoder.dec_bbox_head):
        del layers[count:]
    if options.sampling is not None:
        for module in decoder.modules():
            if isinstance(module, DeformableAttention):
                module.sampling = options.sampling
    sizes = level_sizes(input_size(network, options), len(decoder.config.num_points))
    tokens = sum(height * width for height, width in sizes)
    if options.num_queries is not None and options.num_queries > tokens:
        height, width = input_size(network, options)
        raise ConfigError(
            f"num_queries (--queries): expected at most {tokens}, the number of tokens of an image of "
            f"{height}x{width}, got {options.num_queries}"
        )
    network.num_queries = min(options.num_queries or network.num_queries, tokens)
    return network


def input_size(network: RTDETR, options: ExportOptions) -> tuple[int, int]:
    """Height and width of the network's input: the fixed size, or the default one if sizes are dynamic."""
    return options.size_hw or network.config.size_hw


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
