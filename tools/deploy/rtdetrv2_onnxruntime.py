"""Published command line: `python tools/deploy/rtdetrv2_onnxruntime.py --onnx-file model.onnx --im-file a.jpg`.

Writes results_0.jpg. `rtdetr predict IMAGES --model model.onnx` does the same for many images and has more options.
"""

import argparse
import sys
from pathlib import Path

from annotate import annotate

import rtdetr
from rtdetr.categories import Categories
from rtdetr.errors import WeightsError
from rtdetr.runtimes.base import BaseDetector


def main(arguments: list[str] | None = None) -> int:
    """Detect objects in an image and return the exit status."""
    parser = argparse.ArgumentParser(description="Detect objects in an image with an ONNX file.")
    add = parser.add_argument
    add("--onnx-file", type=Path, required=True, help="ONNX file of export_onnx.py, ours or the published one")
    add("--im-file", type=Path, required=True, help="image")
    add("--coco", action="store_true", help="use COCO class names, for a file without class names")
    options = parser.parse_args(arguments)
    categories = rtdetr.COCO80 if options.coco else None
    return annotate(
        lambda: _load(options.onnx_file, categories),
        options.im_file,
        output=Path("results_0.jpg"),
        threshold=0.6,
    )


def _load(file: Path, categories: Categories | None) -> BaseDetector:
    """Load the file; if it has no class names, the error names the option of this script."""
    try:
        return rtdetr.load(file, categories=categories)
    except WeightsError as error:
        if "does not name its classes" not in str(error):
            raise
        raise WeightsError(
            f"{file} does not name its classes: add --coco for COCO classes, or use rtdetr predict --classes FILE"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
