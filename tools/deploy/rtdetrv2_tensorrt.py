"""Published command line: `python tools/deploy/rtdetrv2_tensorrt.py --engine model.engine --image a.jpg`.

The engine is a file from `rtdetr export --format tensorrt`. `rtdetr predict IMAGES --model model.engine` does the
same for many images and has more options.
"""

import argparse
import sys
from pathlib import Path

from annotate import annotate

import rtdetr


def main(arguments: list[str] | None = None) -> int:
    """Detect objects in an image and return the exit status."""
    parser = argparse.ArgumentParser(description="Detect objects in an image with a TensorRT engine.")
    add = parser.add_argument
    add("--engine", type=Path, required=True, help="file from `rtdetr export --format tensorrt`")
    add("--image", type=Path, required=True, help="image")
    add("--output", type=Path, default=Path("output.jpg"), help="file for the annotated image")
    add("--device", default="cuda:0", help="cuda:0, cuda:1, ...")
    add("--threshold", type=float, default=0.5, help="score threshold, 0..1")
    options = parser.parse_args(arguments)
    return annotate(
        lambda: rtdetr.load(options.engine, device=options.device),
        options.image,
        output=options.output,
        threshold=options.threshold,
    )


if __name__ == "__main__":
    sys.exit(main())
