"""AP and speed of INT8 files of a trained rtdetrv2_r18vd, compared with NNCF on the whole graph.

    python benchmarks/int8.py --folder FOLDER [--side 256] [--epochs 8] [--rounds 20]

The script draws scenes like those of `learn.py` with eight classes and trains rtdetrv2_r18vd on them from random
weights, first on images of half the side. Interrupted training continues, and a finished run is used again. It prints
the AP of the float32 and INT8 files for OpenVINO and ONNX Runtime on 200 other scenes, and their time relative to
float32 in the same engine. "Whole" is what a user gets without this library: `nncf.quantize` with the preset for
transformers, on our graph and on that of transformers.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nncf
import numpy as np
import onnx
import openvino
import torch
import transformers
from export_onnx import peer
from learn_dataset import CLASSES, make_dataset
from learn_runs import Scale, finished_weights, measure, recipe_of
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
from peers import environment, interleaved, print_table

import rtdetr
from rtdetr import zoo
from rtdetr.data import open_dataset
from rtdetr.export import ExportOptions, export
from rtdetr.export.openvino import save_ir
from rtdetr.export.samples import spread
from rtdetr.preprocessing import preprocess
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.graph_form import IMAGES, SIZES
from rtdetr.runtimes.metadata import KEY, ExportMetadata
from rtdetr.weights import load_model, save_huggingface

MODEL = "rtdetrv2_r18vd"
NUM_TRAIN, NUM_VAL, NUM_CALIBRATION = 640, 200, 100
BATCH = 8


class Row(NamedTuple):
    """One file: its AP, and a function that runs its network once."""

    engine: str
    name: str
    ap: float
    run: Callable[[], object]


def main() -> None:
    """Train, quantize, measure and print."""
    parser = argparse.ArgumentParser(description="Measure AP and speed of INT8 files of a trained network.")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the dataset, the runs and the files")
    parser.add_argument("--side", type=int, default=256, help="height and width of the network's input")
    parser.add_argument("--epochs", type=int, default=8, help="at half the side; then a quarter as many at the side")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    folder, side = arguments.folder, arguments.side
    data = make_dataset(folder / "scenes", num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0, classes=CLASSES[:8])
    half = train(data, folder / "half", side=side // 2, epochs=arguments.epochs)
    weights = train(data, folder / "run", side=side, epochs=max(arguments.epochs // 4, 1), weights=half)
    rows = [*our_rows(weights, data, folder, side), *nncf_rows(weights, data, folder, side)]
    times = interleaved({f"{row.engine} {row.name}": row.run for row in rows}, rounds=arguments.rounds)
    base = {row.engine: times[f"{row.engine} float32"] for row in rows if row.name == "float32"}
    reference = {row.engine: row.ap for row in rows if row.name == "float32"}
    print(environment("cpu"), f"openvino {openvino.__version__}, nncf {nncf.__version__}")
    header = (f"{MODEL}, {side}x{side}", "file", "AP", "loss of AP", "ms", "time / float32")
    cells = []
    for row in rows:
        seconds = times[f"{row.engine} {row.name}"]
        loss = reference[row.engine] - row.ap
        share = seconds / base[row.engine]
        cells.append((row.engine, row.name, *(f"{100 * x:.2f}" for x in (row.ap, loss)), f"{seconds * 1e3:.1f}"))
        cells[-1] += (f"{share:.2f}",)
    print_table(header, cells)


def train(data: Path, folder: Path, *, side: int, epochs: int, weights: Path | None = None) -> Path:
    """Train with the MAL loss, flips and a short schedule; return the averaged weights."""
    steps = epochs * NUM_TRAIN // BATCH
    rate = 1.5e-4 if weights else 3e-4
    scale = Scale(zoo.model_config(MODEL), side, BATCH, rate, steps, NUM_TRAIN, NUM_VAL, 0, 0, 1.0)
    recipe = recipe_of(scale, steps).replace(loss=zoo.recipe("deim_rtdetrv2_r18vd").loss)
    result = rtdetr.train(
        data,
        model=MODEL,
        weights=weights or "none",
        output_dir=folder,
        resume="auto",
        rehearsal=False,
        workers=0,
        device="cpu",
        recipe=recipe,
        evaluate_every=2,
    )
    return finished_weights(result)


def our_rows(weights: Path, data: Path, folder: Path, side: int) -> list[Row]:
    """Export to both engines in float32 and INT8, and measure AP."""
    rows = []
    for engine, suffix in (("OpenVINO", "xml"), ("ONNX Runtime", "onnx")):
        for name, options in (("float32", ExportOptions()), ("INT8", ExportOptions(precision="int8"))):
            options = options.replace(size_hw=(side, side))
            file = export(weights, folder / f"{options.precision}.{suffix}", options=options, data=data).path
            rows.append(row_of(engine, name, rtdetr.load(file, device="cpu"), data, side))
    return rows


def row_of(engine: str, name: str, detector: BaseDetector, data: Path, side: int) -> Row:
    """Measure the AP of a detector on the validation scenes."""
    batch = detector.batch([detector.prepare(np.zeros((side, side, 3), np.uint8), (side, side))])
    return Row(engine, name, rtdetr.evaluate(detector, data).metrics.ap, functools.partial(detector.infer, batch))


def nncf_rows(weights: Path, data: Path, folder: Path, side: int) -> list[Row]:
    """Quantize our graph and that of transformers as a whole, and measure AP."""
    dataset = open_dataset(data, split="train")
    images = [preprocess(image, (side, side))[None] for image in spread(dataset, NUM_CALIBRATION, 3)]
    core = openvino.Core()
    ours = core.read_model(folder / "fp32.xml")
    sizes = np.array([[side, side]])
    whole = quantize_whole(ours, [{IMAGES: image, SIZES: sizes} for image in images])
    metadata = ExportMetadata.from_json(str(ours.get_rt_info([KEY]).value), source="fp32.xml")
    save_ir(whole, folder / "whole.xml", metadata=metadata, half=False)
    rows = [row_of("OpenVINO", "INT8, whole graph", rtdetr.load(folder / "whole.xml", device="cpu"), data, side)]
    save_huggingface(load_model(weights)[0], folder / "huggingface")
    theirs = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder / "huggingface").eval()
    graph = peer(theirs, dynamo=False, size_hw=(side, side))
    assert graph is not None
    onnx.save(graph, folder / "transformers.onnx")
    graphs = {"transformers, float32": core.read_model(folder / "transformers.onnx")}
    feeds = [{"images": image} for image in images]
    graphs["transformers, INT8, whole graph"] = quantize_whole(graphs["transformers, float32"], feeds)
    for name, model in graphs.items():
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        forward = functools.partial(run_each, compiled)
        point = measure(forward, open_dataset(data, split="val"), done=0, size_hw=(side, side), device="cpu")
        rows.append(Row("OpenVINO", name, point.ap, functools.partial(compiled, feeds[0])))
    return rows


def quantize_whole(model: Any, feeds: list[dict[str, np.ndarray]]) -> Any:
    """Quantize all that NNCF quantizes in a transformer, with 7 bits for the weights like our files."""
    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )


def run_each(compiled: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a graph of batch size 1 on each image; return logits and boxes."""
    outputs = [list(compiled({"images": image[None].numpy()}).values()) for image in images]
    logits, boxes = (torch.from_numpy(np.concatenate(values)) for values in zip(*outputs, strict=True))
    return logits, boxes


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
