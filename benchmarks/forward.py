"""Inference speed compared with transformers: same weights, same process, interleaved rounds, medians.

    python benchmarks/forward.py [--models rtdetrv2_r18vd rtdetrv2_r50vd] [--device cpu] [--rounds 15]

Per model, the script prints the time of the network at 640x640 and batch size 1 and of JPEG file to boxes including
decoding, the ratio to the floor of the machine, and how much lower precision changes boxes and scores.
"""

import argparse
import copy
import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import convolution_rate, environment, flops, interleaved, make_pair, print_table
from PIL import Image
from transformers import RTDetrImageProcessor

from rtdetr.models import RTDETR, fuse
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import default_categories


def detector(ours: RTDETR, device: str, precision: str) -> TorchDetector:
    """Return our default detector for a model without class names."""
    return TorchDetector(ours, default_categories(ours.config.num_classes), device=device, precision=precision)


def network(ours: RTDETR, theirs: torch.nn.Module, *, device: str, rounds: int) -> None:
    """Time the network only."""
    images = torch.rand(1, 3, 640, 640, device=device)
    last = images.to(memory_format=torch.channels_last)
    plain, needed = copy.deepcopy(ours).to(device), flops(fuse(ours))
    functions = {"transformers, eager float32": lambda: theirs(images), "ours as built, float32": lambda: plain(images)}
    types = dict.fromkeys(functions, torch.float32)
    for precision in ("float32", "auto"):
        path = detector(ours, device, precision)
        name = f"ours, default path, {precision} ({str(path.dtype)[6:]})"
        types[name] = path.dtype
        functions[name] = functools.partial(path.network, last.to(path.dtype))
    with torch.inference_mode():
        times = interleaved(functions, rounds=rounds)
    rates = {dtype: convolution_rate(device, dtype) for dtype in set(types.values())}
    base = times["transformers, eager float32"]
    rows = []
    for name, seconds in times.items():
        floor = needed / rates[types[name]]
        ratios = f"{base / seconds:.2f}x", f"{floor * 1e3:.1f}", f"{seconds / floor:.2f}"
        rows.append((name, f"{seconds * 1e3:.1f}", *ratios))
    print_table((f"{ours.config.name}: network, batch 1, 640x640", "ms", "speed-up", "floor ms", "time / floor"), rows)


def file_to_boxes(ours: RTDETR, theirs: torch.nn.Module, *, device: str, rounds: int) -> None:
    """Time the path from a 1280x960 JPEG file to boxes with scores above 0.5."""
    processor = RTDetrImageProcessor()
    detectors = {f"ours, {precision}": detector(ours, device, precision) for precision in ("float32", "auto")}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "photo.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((1280, 960), Image.Resampling.BICUBIC).save(path, quality=90)

        def transformers_way() -> object:
            image = Image.open(path).convert("RGB")
            inputs = processor(images=image, return_tensors="pt").to(device)
            sizes = [image.size[::-1]]
            return processor.post_process_object_detection(theirs(**inputs), target_sizes=sizes, threshold=0.5)

        functions = {"transformers, eager float32": transformers_way}
        functions |= {name: functools.partial(d, path) for name, d in detectors.items()}
        times = interleaved(functions, rounds=rounds)
    base = times["transformers, eager float32"]
    rows = [(name, f"{s * 1e3:.1f}", f"{base / s:.2f}x") for name, s in times.items()]
    print_table((f"{ours.config.name}: JPEG file 1280x960 to boxes", "ms", "speed-up"), rows)


@torch.inference_mode()
def deviations(ours: RTDETR, *, device: str) -> None:
    """Measure how much lower precision changes predictions: each float32 query against the nearest box."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(1, 3, 40, 40, generator=generator)
    images = torch.nn.functional.interpolate(images, size=(640, 640), mode="bilinear").to(device)
    reference = detector(ours, device, "float32").network(images)
    rows = []
    for precision in ("bfloat16", "float16"):
        path = detector(ours, device, precision)
        output = path.network(images.to(path.dtype))
        distance = torch.cdist(reference.boxes_cxcywh[0] * 640, output.boxes_cxcywh[0] * 640, p=torch.inf)
        box, index = distance.min(dim=1)
        score = (reference.logits[0].sigmoid() - output.logits[0].float().sigmoid()[index]).abs().amax(1)
        rows.append((precision, *(f"{x.quantile(q):.3g}" for x in (box, score) for q in (0.5, 0.95))))
    header = (f"{ours.config.name}: against float32", "box px p50", "box px p95", "score p50", "score p95")
    print_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["rtdetrv2_r18vd", "rtdetrv2_r50vd"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(environment(options.device), "\n")
    for name in options.models:
        ours, theirs = make_pair(name)
        theirs.to(options.device)
        network(ours, theirs, device=options.device, rounds=options.rounds)
        file_to_boxes(ours, theirs, device=options.device, rounds=options.rounds)
        deviations(ours, device=options.device)


if __name__ == "__main__":
    main()
