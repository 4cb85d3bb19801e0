"""Exported graphs that can be run: those of `rtdetr export`, and others with the published inputs and outputs.

images float32 (b, 3, h, w) in [0, 1], orig_target_sizes int64 (b, 2)  ->  labels, boxes, scores   (published)
images                                                                 ->  logits, boxes           (raw)
images uint8 (1, h, w, 3) of any size                                  ->  labels, boxes, scores   (preprocess)
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr._version import __version__
from rtdetr.class_lists import GivenClasses, class_list
from rtdetr.config import DEFAULT_SIZE_HW
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.files import size_text
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.options import num_tokens
from rtdetr.runtimes.outputs import BoxOutput, Output, RawOutput
from rtdetr.wording import counted

IMAGES, SIZES = "images", "orig_target_sizes"
OUTPUTS = {"boxes": ("labels", "boxes", "scores"), "raw": ("logits", "boxes")}
Shape = tuple[int | None, ...]  # None: any
_FLOATS = ("float32", "float16", "float64")
_SIZE_TYPES = ("int64", "int32", "float32", "float64")  # types that can represent every width and height


class Port(NamedTuple):
    """An input of a graph: its shape and NumPy dtype name."""

    shape: Shape
    dtype: str


def existing(source: Path, *, kind: str) -> Path:
    """Return the path of an existing file.

    Raises:
        WeightsError: the file does not exist or is empty.
    """
    if not source.is_file():
        raise WeightsError(f"no such {kind} file: {source}")
    if source.stat().st_size == 0:
        raise WeightsError(f"{source} is empty (0 bytes): copy it or export it again")
    return source


def unreadable(source: Path, *, engine: str, error: Exception) -> WeightsError:
    """Return the error for a file that an engine rejects."""
    return WeightsError(
        f"{source} cannot be read by {engine}: it is truncated or damaged, or needs another version "
        f"({size_text(source)}). Compare the size with that of the original file, and copy or export it again. "
        f"Reason: {reason(error)}"
    )


def reason(error: Exception) -> str:
    """Return the message of an engine on one line, without positions in its source code."""
    return _PLACES.sub("", " ".join(str(error).split()))[:200]


_PLACES = re.compile(
    r"Exception from \S+:\d+: |Check '.*?' failed at \S+?:\d+: |\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|/onnxruntime_src/\S+:\d+ \S+\(.*?\) (?=[A-Z])"
)


def describe(
    text: str | None,
    *,
    source: Path,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Shape],
    categories: GivenClasses | None = None,
) -> ExportMetadata:
    """Return the metadata of a graph, after checking it against the graph.

    Tools such as ONNX Runtime's `make_dynamic_shape_fixed` can fix dynamic axes after the export; the result has the
    axes of the graph.

    Args:
        text: metadata of the file, under the key "rtdetr"; None: the file has none.
        source: the file, for messages.
        inputs: shape and type of each input.
        outputs: shape of each output.
        categories: classes of a file that does not name them.

    Raises:
        WeightsError: the graph or the type of an input is not supported, the metadata is damaged or does not fit the
            graph, or there are no class names.
        ConfigError: `categories` contradict the names in the file or the number of classes of the graph.
    """
    given = None if categories is None else class_list(categories)
    published = set(inputs) == {IMAGES, SIZES} and set(OUTPUTS["boxes"]) <= set(outputs)
    if text is not None:
        metadata = ExportMetadata.from_json(text, source=source)
        needs_sizes = metadata.postprocess == "boxes" and metadata.preprocess == "external"
        expected = {IMAGES, SIZES} if needs_sizes else {IMAGES}
        if set(inputs) != expected or not set(OUTPUTS[metadata.postprocess]) <= set(outputs):
            raise WeightsError(
                f"{source} is damaged: expected the inputs {_listed(expected)} and the outputs "
                f"{_listed(OUTPUTS[metadata.postprocess])} of its metadata, got {_listed(inputs)} and "
                f"{_listed(outputs)}; export the model again"
            )
        metadata = _with_fixed_axes(metadata, inputs[IMAGES].shape, source=source)
        check_images(inputs[IMAGES].shape, metadata, source=source)
        _check_types(inputs, metadata, source=source)
        _check_classes(metadata, outputs, source=source)
        if given is None:
            return metadata
        classes = given.naming(metadata.categories, len(metadata.names), model=source)
        return metadata.replace(names=tuple(classes.names), category_ids=tuple(classes.ids))
    if not published or len(inputs[IMAGES].shape) != 4:
        raise WeightsError(
            f"{source} is not a supported RT-DETR model: expected the inputs {IMAGES} (b, c, h, w) and {SIZES} and "
            f"the outputs labels, boxes and scores, got {_listed(inputs)} and {_listed(outputs)}"
        )
    if given is None:
        raise WeightsError(
            f"{source} does not name its classes, because it was not exported by rtdetr; pass --classes coco, or "
            "--classes FILE with the annotations or names (Python: rtdetr.load(file, categories=rtdetr.COCO80))"
        )
    classes = given.for_rows(None)
    batch, channels, height, width = inputs[IMAGES].shape
    metadata = ExportMetadata(
        model=source.stem,
        names=tuple(classes.names),
        category_ids=tuple(classes.ids),
        size_hw=(height or DEFAULT_SIZE_HW[0], width or DEFAULT_SIZE_HW[1]),
        dynamic_batch=batch is None,
        dynamic_size=height is None and width is None,
        in_channels=channels or 3,
        num_queries=1,  # unknown: no size is too small
        library_version=__version__,
    )
    _check_types(inputs, metadata, source=source)
    return metadata


def output_of(values: Sequence[np.ndarray], metadata: ExportMetadata) -> Output:
    """Convert outputs of a graph, in the order of `OUTPUTS`, to float32 and int64 labels, whatever their types."""
    arrays = [
        np.asarray(value, np.int64 if name == "labels" else np.float32)
        for name, value in zip(OUTPUTS[metadata.postprocess], values, strict=True)
    ]
    return RawOutput(*arrays) if metadata.postprocess == "raw" else BoxOutput(*arrays)


def batch_sizes(shape: Shape, metadata: ExportMetadata) -> tuple[int, int | None]:
    """Minimum and maximum number of images per batch for a graph with this shape of `images`."""
    if metadata.preprocess == "in_graph" or not shape:
        return 1, 1
    return (shape[0] or 1), shape[0]


def check_precision(precision: str, metadata: ExportMetadata, *, source: Path) -> None:
    """Check that a file is run in the precision it was exported in.

    Raises:
        ConfigError: `precision` is neither "auto" nor the file's.
    """
    if precision not in ("auto", metadata.precision):
        raise ConfigError(
            f"{source} was exported in {metadata.precision} and runs only in this precision, got {precision!r}; leave "
            "precision out, or export it again"
        )


def check_images(shape: Shape, metadata: ExportMetadata, *, source: Path) -> None:
    """Compare the shape of a graph's input with its metadata.

    Args:
        shape: shape of `images`; dynamic axes are None. The batch is not checked.
        metadata: the metadata.
        source: the file, for messages.

    Raises:
        WeightsError: they disagree.
    """
    expected = _shape_of_images(metadata)
    if len(shape) != 4 or any(side not in (None, other) for side, other in zip(shape[1:], expected[1:], strict=True)):
        raise WeightsError(
            f"{source} is damaged: expected the shape {_written(expected)} of its metadata for the input {IMAGES}, "
            f"got {_written(shape)}; export the model again"
        )


def _with_fixed_axes(metadata: ExportMetadata, shape: Shape, *, source: Path) -> ExportMetadata:
    """Update the metadata if dynamic axes of the graph have been fixed.

    Raises:
        WeightsError: the fixed size has fewer tokens than the network has queries.
    """
    if metadata.preprocess == "in_graph" or len(shape) != 4:
        return metadata
    batch, _, height, width = shape
    size_hw = metadata.size_hw
    is_fixed = metadata.dynamic_size and not (height is None and width is None)
    if is_fixed:
        size_hw = (height or size_hw[0], width or size_hw[1])
    if size_hw != metadata.size_hw and (tokens := num_tokens(size_hw)) < metadata.num_queries:
        raise WeightsError(
            f"{source} cannot run: its size was fixed to {size_hw[0]}x{size_hw[1]}, which has {tokens} tokens for "
            f"{counted(metadata.num_queries, 'query')}. Fix it to a larger size"
        )
    return metadata.replace(
        size_hw=size_hw,
        dynamic_size=metadata.dynamic_size and not is_fixed,
        dynamic_batch=metadata.dynamic_batch and batch is None,
    )


def _check_types(inputs: Mapping[str, Port], metadata: ExportMetadata, *, source: Path) -> None:
    """Check the types of inputs.

    Raises:
        WeightsError: an input has an unsupported type.
    """
    whole = metadata.preprocess == "in_graph"
    for name, known in ((IMAGES, ("uint8",) if whole else _FLOATS), (SIZES, _SIZE_TYPES)):
        if name in inputs and inputs[name].dtype not in known:
            use = "uint8 pixels of any size" if whole else "values in 0..1; for uint8 use: rtdetr export --preprocess"
            raise WeightsError(
                f"{source} cannot run: its input {name} has the type {inputs[name].dtype}, expected "
                f"{' or '.join(known)}{f' for {use}' if name == IMAGES else ''}"
            )


def _check_classes(metadata: ExportMetadata, outputs: Mapping[str, Shape], *, source: Path) -> None:
    """Compare the number of classes with a graph's logits, if it outputs logits of known shape."""
    shape = outputs.get(OUTPUTS["raw"][0], ())
    if metadata.postprocess == "raw" and shape and shape[-1] not in (None, len(metadata.names)):
        raise WeightsError(
            f"{source} is damaged: its metadata has {counted(len(metadata.names), 'class')}, but the graph has "
            f"{shape[-1]}; export the model again"
        )


def _shape_of_images(metadata: ExportMetadata) -> Shape:
    """Shape of `images` according to the metadata; the batch is not checked and is None."""
    if metadata.preprocess == "in_graph":
        return None, None, None, metadata.in_channels
    size: Shape = (None, None) if metadata.dynamic_size else metadata.size_hw
    return None, metadata.in_channels, *size


def _written(shape: Shape) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:6]) or "none"
