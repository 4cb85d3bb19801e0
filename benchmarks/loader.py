"""Decoding and augmentation: images/s per core compared with the published pipeline, and statistics of both outputs.

    python benchmarks/loader.py [--images 48] [--rounds 5] [--size 640x480] [--photos FOLDER]

The published pipeline applies torchvision v2 transforms to PIL images, as in RT-DETR training: photometric distortion,
zoom-out, crop, flip, resize to 640x640, float32. Both read the same JPEG files, which are drawn for each run or resized
from the photos of a folder, in one thread and in interleaved rounds. Times are CPU times, which other programs disturb
less; rates are medians over the rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from peers import environment
from PIL import Image, ImageDraw, ImageFilter
from torchvision import tv_tensors
from torchvision.transforms import v2

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, TrainLoader, transforms
from rtdetr.data import batches as batching

SIDE = 640
RECIPE = Recipe(batch_size=8, multiscale_sizes=(), augmentation_stop_epoch=None)


def draw_scene(rng: np.random.Generator, size_wh: tuple[int, int]) -> Image.Image:
    """Draw an image with smooth surfaces, edges and some grain, which compresses like a photo."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    scene = Image.fromarray(coarse).resize(size_wh, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(scene)
    for _ in range(40):
        x, y = (int(rng.integers(0, side)) for side in size_wh)
        r = int(rng.integers(4, 90))
        pen.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    scene = scene.filter(ImageFilter.GaussianBlur(0.8))
    grain = rng.normal(0, 5, (size_wh[1], size_wh[0], 3))
    return Image.fromarray((np.asarray(scene) + grain).clip(0, 255).astype(np.uint8))


def write_dataset(folder: Path, *, count: int, size_wh: tuple[int, int], photos: list[Path]) -> DetectionDataset:
    """Write JPEG files with 1 to 14 boxes each, and a COCO file."""
    rng = np.random.default_rng(0)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for number in range(count):
        if photos:
            image = Image.open(photos[number % len(photos)]).convert("RGB").resize(size_wh, Image.Resampling.LANCZOS)
        else:
            image = draw_scene(rng, size_wh)
        image.save(folder / f"{number}.jpg", quality=90)
        width, height = size_wh
        document["images"].append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        for _ in range(rng.integers(1, 15)):
            w, h = np.exp(rng.uniform(np.log(0.02), np.log(0.6), 2)) * size_wh
            box = [float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h)), float(w), float(h)]
            row = {"id": len(document["annotations"]), "image_id": number, "category_id": 1, "bbox": box}
            document["annotations"].append(row)
    file = folder / "data.json"
    file.write_text(json.dumps(document))
    return DetectionDataset(folder, file)


PUBLISHED: dict[str, Callable[..., Any]] = {
    "photometric distortion": v2.RandomPhotometricDistort(p=0.5),
    "zoom-out": v2.RandomZoomOut(fill=0),
    "crop": v2.RandomApply([v2.RandomIoUCrop()], p=0.8),
    "sanitize": v2.SanitizeBoundingBoxes(min_size=1),
    "flip": v2.RandomHorizontalFlip(),
    "resize": v2.Resize([SIDE, SIDE]),
    "sanitize again": v2.SanitizeBoundingBoxes(min_size=1),
    "to float32": v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]),
}


class Stages:
    """CPU time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def call(self, name: str, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        start = time.process_time()
        result = function(*values, **named)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result

    def watch(self, place: Any, attribute: str, name: str) -> None:
        """Replace a function by one that measures its time."""
        function = getattr(place, attribute)

        def measured(*values: Any, **named: Any) -> Any:
            return self.call(name, function, *values, **named)

        setattr(place, attribute, measured)

    def table(self, title: str, total: float, images: int) -> str:
        rows = {**self.seconds, "rest": total - sum(self.seconds.values())}
        return f"{title}, ms per image: " + ", ".join(f"{n} {1000 * s / images:.2f}" for n, s in rows.items())


def statistics_of(batches: list[torch.Tensor], boxes: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """Return statistics per image or box, by name; their means and standard deviations are compared."""
    images = torch.cat(batches)
    figures = {f"mean {name}": images[:, i].mean((1, 2)).numpy() for i, name in enumerate(("red", "green", "blue"))}
    figures |= {
        f"deviation {name}": images[:, i].std((1, 2)).numpy() for i, name in enumerate(("red", "green", "blue"))
    }
    figures["share of black"] = (images == 0).all(1).float().mean((1, 2)).numpy()
    figures["boxes per image"] = np.array([len(box) for box in boxes], dtype=np.float32)
    figures |= {f"box {name}": torch.cat(boxes)[:, i].numpy() for i, name in enumerate(("x", "y", "width", "height"))}
    return figures


def published(dataset: DetectionDataset, stages: Stages) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Load all images once, in batches, with the published pipeline."""
    images, boxes = [], []
    for index in np.random.permutation(len(dataset)):
        image = stages.call("decode", lambda i: Image.open(dataset.path(i)).convert("RGB"), index)
        target = dataset.target(index)
        width, height = target["size_wh"]
        wrapped = tv_tensors.BoundingBoxes(
            torch.from_numpy(target["boxes_xyxy"]), format="XYXY", canvas_size=(height, width)
        )  # pyright: ignore[reportCallIssue]
        sample: Any = (image, {"boxes": wrapped, "labels": torch.from_numpy(target["labels"])})
        for name, transform in PUBLISHED.items():
            sample = stages.call(name, transform, *sample)
        images.append(sample[0].as_subclass(torch.Tensor))
        xyxy = sample[1]["boxes"].as_subclass(torch.Tensor) / SIDE
        boxes.append(torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], dim=1))
    size = RECIPE.batch_size
    whole = stages.call("batch", lambda: [torch.stack(images[i : i + size]) for i in range(0, len(images), size)])
    return whole, boxes


def ours(loader: TrainLoader, epoch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Load all images once, in batches, with our loader."""
    loader.set_epoch(epoch)
    done = list(loader)
    return [images for images, _ in done], [target["boxes"] for _, targets in done for target in targets]


def compare(rounds: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> None:
    """Print the statistics of both side by side."""
    print(f"\n{'outputs':18} {'published: mean, sd':>22} {'ours: mean, sd':>22} {'difference of means':>30}")
    for name in rounds[0][0]:
        theirs, own = (np.concatenate([figures[side][name] for figures in rounds]) for side in (0, 1))
        error = np.sqrt(theirs.var() / len(theirs) + own.var() / len(own))
        difference = own.mean() - theirs.mean()
        print(
            f"{name:18} {theirs.mean():12.4f} {theirs.std():9.4f} {own.mean():12.4f} {own.std():9.4f} "
            f"{difference:+14.4f} = {difference / error:+.1f} standard errors"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="640x480", help="size of the JPEG files, width x height")
    parser.add_argument("--photos", type=Path, help="folder of JPEG files to use instead of drawn scenes")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    print(f"{environment('cpu')}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        photos = sorted(options.photos.glob("*.jpg")) if options.photos else []
        dataset = write_dataset(Path(folder), count=options.images, size_wh=(width, height), photos=photos)
        loader = TrainLoader(dataset, RECIPE)
        stages = Stages(), Stages()
        stages[1].watch(DetectionDataset, "load_array", "decode")
        stages[1].watch(transforms, "distort", "colors")
        stages[1].watch(transforms, "iou_crop", "crop")
        stages[1].watch(transforms, "resize", "resize")
        stages[1].watch(transforms, "visible", "boxes")
        stages[1].watch(transforms, "mirrored", "flip")
        stages[1].watch(batching, "default_collate", "batch")
        stages[1].watch(loader, "_finish", "to float32")
        seconds: tuple[list[float], list[float]] = ([], [])
        figures = []
        for number in range(options.rounds + 1):
            results = []
            for side in (0, 1):
                start = time.process_time()
                results.append(ours(loader, number) if side else published(dataset, stages[0]))
                seconds[side].append(time.process_time() - start)
            if number == 0:  # warm-up round
                for side in (0, 1):
                    seconds[side].clear()
                    stages[side].seconds.clear()
            else:
                figures.append(tuple(statistics_of(*result) for result in results))
    rates = [len(dataset) / statistics.median(side) for side in seconds]
    ratios = [theirs / own for theirs, own in zip(*seconds, strict=True)]
    print(f"\n{options.size} JPEG files to batches of {SIDE}x{SIDE}, {options.rounds} rounds of {len(dataset)} images")
    print(f"published        {rates[0]:7.1f} images/s per core")
    print(f"ours             {rates[1]:7.1f} images/s per core")
    print(f"ratio            {rates[1] / rates[0]:7.2f}x (rounds {min(ratios):.2f} to {max(ratios):.2f})\n")
    for name, side in (("published", 0), ("ours", 1)):
        print(stages[side].table(name, sum(seconds[side]), options.rounds * len(dataset)))
    compare(figures)


if __name__ == "__main__":
    main()
