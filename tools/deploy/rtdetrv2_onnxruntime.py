"""The published command line: `python tools/deploy/rtdetrv2_onnxruntime.py --onnx-file model.onnx --im-file a.jpg`.

Writes results_0.jpg. `rtdetr predict IMAGES --model model.onnx` does the same for many images, and more.
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
    """Detect as the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(description="Detect objects in an image with an ONNX file.")
    add = parser.add_argument
    add("--onnx-file", type=Path, required=True, help="what export_onnx.py writes, here or in the published repository")
    add("--im-file", type=Path, required=True, help="image")
    add("--coco", action="store_true", help="name the classes as COCO does, for a file that does not name them itself")
    options = parser.parse_args(arguments)
    categories = rtdetr.COCO80 if options.coco else None
    return annotate(
        lambda: _load(options.onnx_file, categories),
        options.im_file,
        output=Path("results_0.jpg"),
        threshold=0.6,
    )


def _load(file: Path, categories: Categories | None) -> BaseDetector:
    """Load the file; where it does not name its classes, name the option of this script."""
    try:
        return rtdetr.load(file, categories=categories)
    except WeightsError as error:
        if "does not name its classes" not in str(error):
            raise
        raise WeightsError(
            f"{file} does not name its classes: add --coco if they are COCO's, else use rtdetr predict --classes FILE"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
