"""Speed of our ONNX graphs and of the transformers model exported by torch.onnx: same weights, interleaved rounds.

    python benchmarks/export_onnx.py [--model rtdetrv2_r18vd] [--threads 0] [--rounds 15]

For the network at 640x640 and batch size 1 in ONNX Runtime on the CPU, float32, the script prints the number of
operators, median milliseconds, CPU time, which other programs disturb less, and the speed-up over transformers. It also
prints the time of PyTorch.
"""

import argparse
import contextlib
import functools
import io
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from peers import environment, interleaved, make_pair, print_table

from rtdetr.export.job import prepared
from rtdetr.export.onnx import build_onnx
from rtdetr.export.options import ExportOptions

FORMS = {
    "ours, one size": {},
    "ours, any batch and size": {"dynamic_batch": True, "dynamic_size": True},
    "ours, no GridSample": {"gather_only": True},
}


class Tuple(torch.nn.Module):
    """The transformers model with tensors as output, as exporters require."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and normalized boxes."""
        output = self.model(pixel_values=images)
        return output.logits, output.pred_boxes


def peer(theirs: torch.nn.Module, *, dynamo: bool, size_hw: tuple[int, int] = (640, 640)) -> onnx.ModelProto | None:
    """Export the transformers model with the newer or older torch exporter; return None if that fails."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "peer.onnx"
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits", "boxes"], "verbose": False}
        try:
            images = torch.rand(1, 3, *size_hw)
            with contextlib.redirect_stderr(io.StringIO()):
                torch.onnx.export(Tuple(theirs), (images,), str(path), opset_version=18, dynamo=dynamo, **names)
        except Exception as error:  # exporters raise many exception types
            print(f"torch.onnx.export(dynamo={dynamo}) fails: {type(error).__name__}")
            return None
        return onnx.load(path)


def session(proto: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Create an ONNX Runtime session with default optimization."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Export, time and print."""
    parser = argparse.ArgumentParser(description="Compare our ONNX graphs with the exported transformers model.")
    parser.add_argument("--model", default="rtdetrv2_r18vd")
    parser.add_argument("--threads", type=int, default=0, help="0: default of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    ours, theirs = make_pair(arguments.model)
    graphs = {
        f"transformers, torch.onnx, {kind}": peer(theirs, dynamo=kind == "dynamo") for kind in ("script", "dynamo")
    }
    for name, values in FORMS.items():
        options = ExportOptions(postprocess="raw", **values)
        graphs[name] = build_onnx(prepared(ours, options), options)
    known = {name: proto for name, proto in graphs.items() if proto is not None}
    images = torch.rand(1, 3, 640, 640)
    feeds, network = {"images": images.numpy()}, prepared(ours, ExportOptions())
    running = {name: session(proto, arguments.threads) for name, proto in known.items()}
    functions = {name: functools.partial(one.run, None, feeds) for name, one in running.items()}
    functions["ours, PyTorch, fused"] = functools.partial(network, images)
    used: dict[str, list[float]] = {name: [] for name in functions}

    def counted(name: str) -> None:
        start = time.process_time()
        functions[name]()
        used[name].append(time.process_time() - start)

    with torch.inference_mode():
        times = interleaved({name: functools.partial(counted, name) for name in functions}, rounds=arguments.rounds)
    base = next(iter(times))
    work = {name: float(np.median(values)) for name, values in used.items()}
    rows = [
        (
            name,
            str(len(known[name].graph.node)) if name in known else "-",
            f"{times[name] * 1e3:.1f}",
            f"{times[base] / times[name]:.2f}x",
            f"{work[name] * 1e3:.1f}",
            f"{work[base] / work[name]:.2f}x",
        )
        for name in times
    ]
    print(environment("cpu"), f"onnxruntime {onnxruntime.__version__}")
    print_table((arguments.model, "operators", "ms", "speed-up", "CPU ms", "speed-up"), rows)


if __name__ == "__main__":
    main()
