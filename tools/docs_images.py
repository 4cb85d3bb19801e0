"""Make the images of the README and the landing page from what `make demo` left.

    make demo
    python tools/docs_images.py [--demo demo]

writes docs/images/detections.jpg, held-out images with what the model found in them, and docs/images/report.png, the
run report in a browser (Chromium or Chrome has to be installed).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import rtdetr
from rtdetr.data import open_dataset
from rtdetr.detections import Detections
from rtdetr.drawing import draw

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TILE_WH = (480, 360)
COLUMNS, ROWS, GAP = 2, 2, 6
REPORT_WH = (1200, 900)
NMS_IOU = 0.7  # as in `make demo`


def num_correct(found: Detections, boxes: np.ndarray, labels: np.ndarray) -> int:
    """Number of objects if each is found once, in place and with its class, and nothing else is; else 0."""
    if len(found) != len(labels):
        return 0
    for box, label in zip(boxes, labels, strict=True):
        same = found.boxes_xyxy[found.labels == label]
        low, high = np.maximum(same[:, :2], box[:2]), np.minimum(same[:, 2:], box[2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        areas = np.prod(same[:, 2:] - same[:, :2], axis=1) + np.prod(box[2:] - box[:2])
        if not (shared / (areas - shared) > 0.5).any():
            return 0
    return len(labels)


def detections(demo: Path, path: Path) -> None:
    """Draw the detections in the landscape images with the most objects, all of which were found."""
    detector = rtdetr.load(demo / "run" / "best.pth", nms_iou=NMS_IOU)
    dataset = open_dataset(demo / "data", split="val", categories=detector.categories)
    ranked: list[tuple[int, int]] = []
    for number in range(len(dataset)):
        image, target = dataset.load(number)
        if image.width * TILE_WH[1] == image.height * TILE_WH[0]:
            found = detector(image, threshold="auto")
            assert isinstance(found, Detections)
            ranked.append((num_correct(found, target["boxes_xyxy"], target["labels"]), number))
    width, height = TILE_WH[0] + GAP, TILE_WH[1] + GAP
    sheet = Image.new("RGB", (COLUMNS * width - GAP, ROWS * height - GAP), "white")
    for place, (_, number) in enumerate(sorted(ranked, reverse=True)[: COLUMNS * ROWS]):
        image, _ = dataset.load(number)
        large = image.resize(TILE_WH, Image.Resampling.LANCZOS)
        found = detector(large, threshold="auto")
        assert isinstance(found, Detections)
        drawn = draw(large, found, line_width=2, font_size=15)
        sheet.paste(drawn, (place % COLUMNS * width, place // COLUMNS * height))
    sheet.save(path, quality=80, optimize=True, progressive=True)


def screenshot(page: Path, path: Path, size_wh: tuple[int, int]) -> None:
    """Save what a browser shows of the top of a page, in 128 colors."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found for {path}: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        options += [f"--window-size={size_wh[0]},{size_wh[1]}", f"--screenshot={shot}"]
        subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder that `make demo` filled")
    demo: Path = parser.parse_args().demo
    IMAGES.mkdir(exist_ok=True)
    detections(demo, IMAGES / "detections.jpg")
    screenshot(demo / "run" / "report.html", IMAGES / "report.png", REPORT_WH)
    for name in ("detections.jpg", "report.png"):
        print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
