"""Published command line: `python tools/deploy/rtdetrv2_torch.py -c CONFIG.yml -r CHECKPOINT.pth -f a.jpg -d cpu`.

Writes results_0.jpg. `rtdetr predict IMAGES --model CHECKPOINT.pth` does the same for many images and has more options.
"""

import argparse
import sys
from pathlib import Path

from annotate import annotate

from rtdetr.runtimes.base import BaseDetector


def main(arguments: list[str] | None = None) -> int:
    """Detect objects in an image and return the exit status."""
    parser = argparse.ArgumentParser(description="Detect objects in an image with a model of a published YAML file.")
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="published YAML file")
    add("-r", "--resume", required=True, help="checkpoint")
    add("-f", "--im-file", type=Path, required=True, help="image")
    add("-d", "--device", default="cpu", help="auto, cpu, cuda or cuda:1")
    options = parser.parse_args(arguments)
    return annotate(lambda: _detector(options), options.im_file, output=Path("results_0.jpg"), threshold=0.6)


def _detector(options: argparse.Namespace) -> BaseDetector:
    from rtdetr.published import read_published
    from rtdetr.runtimes.torch_detector import TorchDetector
    from rtdetr.weights import load_published

    found = load_published(read_published(options.config), options.resume)
    return TorchDetector(found.model, found.categories, device=options.device, precision="float32")


if __name__ == "__main__":
    sys.exit(main())
