"""Time of resize, scaling and post-processing of a photo, compared with two other implementations.

    python benchmarks/pixels.py [--photo FILE] [--rounds 100] [--threads 2]

All implementations run in one process, in interleaved rounds. The script prints median wall-clock milliseconds and CPU
time
of all threads, which other programs disturb less, and the difference from the published pixels: the torchvision resize
of a PIL image, which uses Pillow. All use the same random network output.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from peers import environment, print_table
from torchvision.transforms import v2
from transformers import RTDetrImageProcessor
from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import RTDetrV2ObjectDetectionOutput

from rtdetr.benchmark.measure import sample_photo
from rtdetr.categories import COCO80
from rtdetr.images import open_image
from rtdetr.models import build_model, postprocess
from rtdetr.preprocessing import preprocess, scale
from rtdetr.runtimes.base import RawOutput
from rtdetr.runtimes.torch_detector import TorchDetector

SIZE = (640, 640)
Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", help="image file; default: a generated image of 1280x960")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(environment("cpu"), "\n")

    image = open_image(options.photo or sample_photo())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 300, 80, generator=generator) * 2 - 3
    boxes = torch.rand(1, 300, 4, generator=generator)
    sizes_wh = torch.tensor([image.size])
    processor = RTDetrImageProcessor()
    output = RTDetrV2ObjectDetectionOutput(logits=logits, pred_boxes=boxes)
    detector = TorchDetector(
        build_model("test-tiny", num_classes=80), COCO80, device="cpu", precision="float32", fast_resize=True
    )
    thresholds = detector.by_class(0.5)
    raw, sizes = RawOutput(logits.numpy(), boxes.numpy()), sizes_wh.numpy()

    published_steps = v2.Compose([v2.Resize(SIZE), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])

    def published_pixels() -> torch.Tensor:
        return published_steps(image)

    def transformers_pixels() -> torch.Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    def torch_pixels() -> torch.Tensor:
        pixels, _ = detector.prepare(image, SIZE)
        return torch.from_numpy(scale(pixels))

    def numpy_pixels() -> torch.Tensor:
        return torch.from_numpy(preprocess(image, SIZE))

    def in_torch() -> object:
        labels, corners, scores = postprocess(logits, boxes, sizes_wh=sizes_wh)
        kept = scores[0] > 0.5
        return labels[0][kept], corners[0][kept], scores[0][kept]

    def in_transformers() -> object:
        return processor.post_process_object_detection(output, target_sizes=[image.size[::-1]], threshold=0.5)

    def in_numpy() -> object:
        return detector.finish(raw, sizes, thresholds=thresholds)

    ways: dict[str, tuple[Work, Work]] = {
        "published: torchvision on PIL, then torch": (published_pixels, in_torch),
        "transformers processor": (transformers_pixels, in_transformers),
        "ours, torch runtime with fast_resize": (torch_pixels, in_numpy),
        "ours": (numpy_pixels, in_numpy),
    }
    with torch.inference_mode():
        times = timed(ways, rounds=options.rounds)
        expected = published_pixels().numpy() * 255
        rows = []
        for name, (pixels, _) in ways.items():
            (clock, busy), (after, _) = times[name]
            away = np.abs(np.asarray(pixels()) * 255 - expected)
            numbers = f"{clock:.2f}", f"{after:.2f}", f"{clock + after:.2f}", f"{busy:.2f}"
            rows.append((name, *numbers, f"{away.max():.2f}", f"{(away > 0.01).mean():.2%}"))
    header = (
        f"photo {image.width}x{image.height}",
        "resize and scale",
        "boxes",
        "total",
        "CPU time of pixels",
    )
    print_table((*header, "largest difference / 255", "values that differ"), rows)


def timed(ways: dict[str, tuple[Work, Work]], *, rounds: int, warmup: int = 5) -> dict[str, np.ndarray]:
    """Return median milliseconds of both parts of each implementation, (2, 2): wall clock and CPU time."""
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        for name, parts in ways.items():
            row = []
            for part in parts:
                start = time.perf_counter(), time.process_time()
                part()
                row.append((time.perf_counter() - start[0], time.process_time() - start[1]))
            if turn >= warmup:
                found[name].append(row)
    return {name: np.median(rows, axis=0) * 1e3 for name, rows in found.items()}


if __name__ == "__main__":
    main()
