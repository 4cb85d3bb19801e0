"""Speed of our OpenVINO files and of transformers, eager and exported: same weights, interleaved rounds.

    python benchmarks/export_openvino.py [--models rtdetrv2_r18vd] [--rounds 15] [--photos FOLDER]

For the network at 640x640 and batch size 1 in OpenVINO on the CPU, the script prints the number of operations, median
milliseconds, and the speed-up over transformers in eager float32. bfloat16 is fast with AMX, INT8 with VNNI or AMX.
INT8 is calibrated on the photos, or on images included in the library. Weights are random, so the results only show
speed; docs/quantization.md has the AP of quantized trained models.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import openvino
import torch
from export_onnx import peer
from peers import environment, interleaved, make_pair, print_table

from rtdetr.export import ExportOptions, export
from rtdetr.export.built_in_images import built_in_images
from rtdetr.export.job import prepared
from rtdetr.export.onnx import build_onnx
from rtdetr.export.openvino import count_operations
from rtdetr.models import RTDETR

Graph = tuple[openvino.Model, str]  # and the precision of its float layers


def main() -> None:
    """Export, time and print."""
    parser = argparse.ArgumentParser(description="Compare the speed of our OpenVINO files with transformers.")
    parser.add_argument("--models", nargs="+", default=["rtdetrv2_r18vd"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--photos", type=Path, help="folder of images for INT8 calibration")
    arguments = parser.parse_args()
    images = sorted(arguments.photos.glob("*.jpg")) if arguments.photos else built_in_images()
    print(environment("cpu"), f"openvino {openvino.__version__}")
    for name in arguments.models:
        compare(name, images, rounds=arguments.rounds)


def compare(name: str, images: list, *, rounds: int) -> None:
    """Print the table of one model."""
    ours, theirs = make_pair(name)
    batch = torch.rand(1, 3, 640, 640)
    with tempfile.TemporaryDirectory() as folder:
        graphs = read(ours, theirs, Path(folder), images)
        functions: dict[str, Callable[[], object]] = {
            "transformers, eager float32": functools.partial(theirs, pixel_values=batch)
        }
        for kind, (model, precision) in graphs.items():
            compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
            functions[kind] = functools.partial(compiled, {"images": batch.numpy()})
        with torch.inference_mode():
            times = interleaved(functions, rounds=rounds)
    base = times["transformers, eager float32"]
    rows = [
        (
            kind,
            str(count_operations(graphs[kind][0])) if kind in graphs else "-",
            f"{seconds * 1e3:.1f}",
            f"{base / seconds:.2f}x",
        )
        for kind, seconds in times.items()
    ]
    print_table((f"{name}: network, batch 1, 640x640", "operations", "ms", "speed-up"), rows)


def read(ours: RTDETR, theirs: torch.nn.Module, folder: Path, images: list) -> dict[str, Graph]:
    """Return the graphs to compare: transformers by torch.onnx, ours, and ours in INT8."""
    core, graphs = openvino.Core(), {}
    exported = peer(theirs, dynamo=False)
    if exported is not None:
        onnx.save(exported, folder / "peer.onnx")
        for precision in ("f32", "bf16"):
            graphs[f"transformers, torch.onnx, {precision}"] = core.read_model(folder / "peer.onnx"), precision
    options = ExportOptions(format="openvino", postprocess="raw")
    export(ours, folder / "ours.xml", options=options)
    merged = build_onnx(prepared(ours, options), options)  # as for ONNX Runtime
    graphs["ours, merged 1x1 convolutions, f32"] = core.read_model(merged.SerializeToString(), b""), "f32"
    for precision in ("f32", "bf16"):
        graphs[f"ours, {precision}"] = core.read_model(folder / "ours.xml"), precision
    export(ours, folder / "int8.xml", images=images, options=options.replace(precision="int8"))
    graphs["ours, INT8 and f32"] = core.read_model(folder / "int8.xml"), "f32"
    graphs["ours, INT8 and bf16"] = core.read_model(folder / "int8.xml"), "bf16"
    return graphs


if __name__ == "__main__":
    main()
