"""Time of decoding, resize, scaling and post-processing of a photo, compared with two other implementations.

    python benchmarks/pixels.py [--photo FILE] [--size 1280x960] [--rounds 100] [--threads 2]

All implementations run in one process, in interleaved rounds. The script prints median wall-clock milliseconds, the CPU
time of all threads, which other programs disturb less, and the difference from the published pixels: the torchvision
resize of a PIL image, which uses Pillow. "File to input" starts with the contents of a JPEG file, "resize and scale"
with its decoded pixels. All use the same random network output.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peers import environment, print_table
from PIL import Image
from torchvision.transforms import v2
from transformers import RTDetrImageProcessor
from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import RTDetrV2ObjectDetectionOutput

from rtdetr.benchmark.measure import sample_photo
from rtdetr.categories import COCO80
from rtdetr.images import open_image
from rtdetr.models import build_model, postprocess
from rtdetr.preprocessing import preprocess, resize, scale
from rtdetr.runtimes.base import RawOutput
from rtdetr.runtimes.torch_detector import TorchDetector

SIZE = (640, 640)
PARTS = ("file to input", "resize and scale", "boxes")
Pixels = torch.Tensor | np.ndarray


class Way(NamedTuple):
    """The three parts of an implementation; pixels are (3, h, w), floats in [0, 1] or uint8."""

    open: Callable[[], Image.Image]
    pixels: Callable[[Image.Image], Pixels]
    boxes: Callable[[], object]

    def run(self, part: str, image: Image.Image) -> object:
        """Run one of `PARTS`; `image` is the decoded photo."""
        if part == "boxes":
            return self.boxes()
        return self.pixels(self.open() if part == "file to input" else image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", help="image file; default: a generated photo")
    parser.add_argument("--size", default="1280x960", help="width and height of the generated photo")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(environment("cpu"), "\n")

    width, height = map(int, options.size.split("x"))
    photo = sample_photo(size_wh=(width, height))
    content = Path(options.photo).read_bytes() if options.photo else photo
    assert isinstance(content, bytes)
    image = open_image(content)
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

    def with_pil() -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    def ours() -> Image.Image:
        return open_image(content)

    def transformers_pixels(image: Image.Image) -> torch.Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    def torch_pixels(image: Image.Image) -> np.ndarray:
        return scale(detector.prepare(image, SIZE)[0])

    def in_torch() -> object:
        labels, corners, scores = postprocess(logits, boxes, sizes_wh=sizes_wh)
        kept = scores[0] > 0.5
        return labels[0][kept], corners[0][kept], scores[0][kept]

    def in_transformers() -> object:
        return processor.post_process_object_detection(output, target_sizes=[image.size[::-1]], threshold=0.5)

    def in_numpy() -> object:
        return detector.finish(raw, sizes, thresholds=thresholds)

    ways = {
        "published: torchvision on PIL, then torch": Way(with_pil, published_steps, in_torch),
        "transformers processor": Way(with_pil, transformers_pixels, in_transformers),
        "ours, torch runtime with fast_resize": Way(ours, torch_pixels, in_numpy),
        "ours, without torch": Way(ours, lambda image: preprocess(image, SIZE), in_numpy),
        "ours, OpenVINO (which scales the pixels)": Way(ours, lambda image: resize(image, SIZE), in_numpy),
    }
    with torch.inference_mode():
        times = timed(ways, image, rounds=options.rounds)
        expected = np.asarray(published_steps(image)) * 255
        rows = []
        for name, way in ways.items():
            clock, busy = times[name].T  # of each part
            pixels = np.asarray(way.pixels(image))
            away = np.abs((pixels if pixels.dtype == np.uint8 else pixels * 255) - expected)
            numbers = [f"{value:.2f}" for value in (*clock, clock[0] + clock[2], busy[0])]
            rows.append((name, *numbers, f"{away.max():.2f}", f"{(away > 0.01).mean():.2%}"))
    header = (f"photo {image.width}x{image.height}", *PARTS, "file to boxes, no network", "CPU time of file to input")
    print_table((*header, "largest difference / 255", "values that differ"), rows)


def timed(ways: dict[str, Way], image: Image.Image, *, rounds: int, warmup: int = 5) -> dict[str, np.ndarray]:
    """Return median milliseconds of the three parts of each implementation, (3, 2): wall clock and CPU time."""
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in ways}
    for turn in range(warmup + rounds):
        for name, way in ways.items():
            row = []
            for part in PARTS:
                start = time.perf_counter(), time.process_time()
                way.run(part, image)
                row.append((time.perf_counter() - start[0], time.process_time() - start[1]))
            if turn >= warmup:
                found[name].append(row)
    return {name: np.median(rows, axis=0) * 1e3 for name, rows in found.items()}


if __name__ == "__main__":
    main()
