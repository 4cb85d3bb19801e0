"""Our ONNX graphs beside transformers' RTDetrV2 exported by torch.onnx: same weights, same run, interleaved rounds.

    python benchmarks/export_onnx.py [--model rtdetrv2_r18vd] [--threads 0] [--rounds 15]

Prints, for the network alone at 640x640 and batch 1 in ONNX Runtime on the CPU, float32: operators in the file, median
milliseconds, processor time, which other work on the machine disturbs less, and the speed-up over the peer. PyTorch's
own time is beside them.
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

from rtdetr.export.graph import prepared
from rtdetr.export.onnx import build_onnx
from rtdetr.export.options import ExportOptions

FORMS = {
    "ours, one size": {},
    "ours, any batch and size": {"dynamic_batch": True, "dynamic_size": True},
    "ours, no GridSample": {"gather_only": True},
}


class Tuple(torch.nn.Module):
    """transformers' model with tensors as its result, as exporters want it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and normalized boxes."""
        output = self.model(pixel_values=images)
        return output.logits, output.pred_boxes


def peer(theirs: torch.nn.Module, *, dynamo: bool) -> onnx.ModelProto | None:
    """Export transformers' model with torch's newer or older exporter; None where it cannot."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "peer.onnx"
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits", "boxes"], "verbose": False}
        try:
            images = torch.rand(1, 3, 640, 640)
            with contextlib.redirect_stderr(io.StringIO()):
                torch.onnx.export(Tuple(theirs), (images,), str(path), opset_version=18, dynamo=dynamo, **names)
        except Exception as error:  # exporters fail in many ways
            print(f"torch.onnx.export(dynamo={dynamo}) fails: {type(error).__name__}")
            return None
        return onnx.load(path)


def session(proto: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Run a graph in ONNX Runtime as it comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Export, run and print."""
    parser = argparse.ArgumentParser(description="Time our ONNX graphs beside transformers' exported model.")
    parser.add_argument("--model", default="rtdetrv2_r18vd")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as ONNX Runtime takes")
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
    print_table((arguments.model, "operators", "ms", "speed-up", "processor ms", "speed-up"), rows)


if __name__ == "__main__":
    main()
