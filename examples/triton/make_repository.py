"""Create a model repository for NVIDIA Triton from an exported ONNX file.

    rtdetr export MODEL --format onnx --dynamic batch --output model.onnx
    python examples/triton/make_repository.py model.onnx repository
    tritonserver --model-repository=repository

This writes repository/rtdetr/config.pbtxt, repository/rtdetr/labels.txt and repository/rtdetr/1/model.onnx. Names,
types and shapes are read from the ONNX file. With a dynamic batch axis, Triton batches requests.

The client preprocesses images: 8-bit RGB; stretch to the network size without keeping the aspect ratio, bilinear with
antialiasing (BILINEAR in Pillow); divide by 255; no normalization by mean and standard deviation; float32 (b, 3, h, w).
`orig_target_sizes` is int64 (b, 2), width and height of the original image, and boxes are returned as xyxy in its
pixels. A file from `rtdetr export --preprocess` accepts uint8 (1, h, w, 3) of any size instead and does all this
itself.
"""

import argparse
import shutil
import sys
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from rtdetr.errors import ExportError, RTDETRError, WeightsError, one_line
from rtdetr.runtimes.metadata import KEY, ExportMetadata

TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}
MAX_BATCH_SIZE = 8


def make_repository(model: Path, folder: Path, *, name: str = "rtdetr") -> Path:
    """Write a repository with one model and return the folder of the model.

    Raises:
        WeightsError: `model` is missing, damaged, or was not exported by this library.
        ExportError: the repository cannot be written.
    """
    try:
        content = onnx.load(model)
    except (OSError, DecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or not an ONNX file"
        raise WeightsError(
            f"{model} cannot be read: {reason}; expected a file from rtdetr export --format onnx"
        ) from None
    stored = {entry.key: entry.value for entry in content.metadata_props}
    metadata = ExportMetadata.from_json(stored.get(KEY, ""), source=model)
    home = folder / name
    try:
        (home / "1").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model, home / "1" / "model.onnx")
        (home / "labels.txt").write_text("\n".join(metadata.names) + "\n", encoding="utf-8")
        (home / "config.pbtxt").write_text(configuration(content, metadata, name), encoding="utf-8")
    except OSError as error:
        raise ExportError(f"cannot write {home}: {error.strerror}; choose another folder") from None
    return home


def configuration(content: onnx.ModelProto, metadata: ExportMetadata, name: str) -> str:
    """Return the text of config.pbtxt."""
    batched = metadata.dynamic_batch
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {MAX_BATCH_SIZE if batched else 0}"]
    for kind, values in (("input", content.graph.input), ("output", content.graph.output)):
        lines.append(f"{kind} [")
        for value in values:
            tensor = value.type.tensor_type
            sides = [side.dim_value or -1 for side in tensor.shape.dim][1 if batched else 0 :]
            label = ' label_filename: "labels.txt"' if value.name == "labels" else ""
            text = f'name: "{value.name}" data_type: {TYPES[tensor.elem_type]} dims: {sides}{label}'
            lines.append(f"  {{ {text} }},")
        lines[-1] = lines[-1].removesuffix(",")
        lines.append("]")
    if batched:
        lines.append("dynamic_batching { max_queue_delay_microseconds: 2000 }")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Create a model repository for NVIDIA Triton.")
    parser.add_argument("model", type=Path, help="file from rtdetr export --format onnx")
    parser.add_argument("folder", type=Path, help="repository to write to")
    parser.add_argument("--name", default="rtdetr", help="name of the model in the repository")
    options = parser.parse_args()
    try:
        print(make_repository(options.model, options.folder, name=options.name))
    except RTDETRError as error:
        sys.exit(one_line(error))
