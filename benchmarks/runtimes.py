"""Every CPU runtime beside the floor of the machine: same weights, same process, interleaved rounds, medians.

    python benchmarks/runtimes.py [--models rtdetrv2_r18vd] [--rounds 15] [--int8]

For the network at 640x640 and batch size 1, the script prints milliseconds and the ratio to two floors. "FLOPs" is the
time of the network's arithmetic at the best rate of one large convolution. "Alone" is the sum of the times of the
network's own convolutions and matrix products, each alone in the same runtime: what is above it is lost between them.
Weights are random.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from forward import flops
from peers import convolution_rate, environment, interleaved, print_table, randomize

import rtdetr
from rtdetr.benchmark import profile
from rtdetr.benchmark.measure import sample_photo
from rtdetr.export import ExportOptions, export
from rtdetr.export.built_in_images import built_in_images
from rtdetr.machine import package_versions
from rtdetr.models import build_model, fuse
from rtdetr.weights import save_weights

SUFFIXES = {"ONNX Runtime": "onnx", "OpenVINO": "xml"}


def main() -> None:
    """Export, time and print."""
    parser = argparse.ArgumentParser(description="Time every CPU runtime beside the floor of the machine.")
    parser.add_argument("--models", nargs="+", default=["rtdetrv2_r18vd"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--int8", action="store_true", help="also time INT8 files")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version}" for name, version in package_versions(("onnxruntime", "openvino")).items())
    print(f"{environment('cpu')}, {versions}\n")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder), rounds=arguments.rounds, int8=arguments.int8)


def compare(name: str, folder: Path, *, rounds: int, int8: bool) -> None:
    """Print the table of one model."""
    torch.manual_seed(0)
    network = randomize(build_model(name)).eval()
    needed, rate = flops(fuse(network)), convolution_rate("cpu", torch.float32)
    files = {"PyTorch, float32": save_weights(network, folder / "model.pth")}
    for precision in ("fp32", "int8") if int8 else ("fp32",):
        for engine, suffix in SUFFIXES.items():
            options = ExportOptions(precision=precision, postprocess="raw")
            images = built_in_images() if precision == "int8" else None
            file = export(network, folder / f"{precision}.{suffix}", options=options, images=images).path
            files[f"{engine}, {'INT8' if precision == 'int8' else 'float32'}"] = file
    detectors = {
        key: rtdetr.load(file, device="cpu", precision="auto" if file.suffix == ".onnx" else "float32")
        for key, file in files.items()
    }
    blank = np.zeros((640, 640, 3), np.uint8)
    batches = {key: one.batch([one.prepare(blank, (640, 640))]) for key, one in detectors.items()}
    functions = {key: functools.partial(one.infer, batches[key]) for key, one in detectors.items()}
    times = interleaved(functions, rounds=rounds)
    floor = needed / rate
    rows = []
    for key, seconds in times.items():
        alone = profile(key, detectors[key], sample_photo(), rounds=5).floor_ms
        ratios = ("-", "-") if alone is None else (f"{alone:.1f}", f"{seconds * 1e3 / alone:.2f}")
        rows.append((key, f"{seconds * 1e3:.1f}", f"{seconds / floor:.2f}", *ratios))
    print(f"{name}: {needed / 1e9:.1f} GFLOP, {rate / 1e9:.0f} GFLOP/s, floor by FLOPs {floor * 1e3:.1f} ms\n")
    print_table((f"{name}, batch 1, 640x640", "ms", "time / FLOPs", "alone, ms", "time / alone"), rows)


if __name__ == "__main__":
    main()
