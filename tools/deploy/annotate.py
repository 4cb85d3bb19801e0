"""What the published deploy scripts have in common: one image through a detector, and an annotated copy of it."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from rtdetr.detections import Detections
from rtdetr.drawing import draw
from rtdetr.errors import InputError, RTDETRError, one_line, require_extra
from rtdetr.runtimes.base import BaseDetector


def annotate(load: Callable[[], BaseDetector], image: Path, *, output: Path, threshold: float) -> int:
    """Detect objects in an image and save it with their boxes; return the exit status.

    Args:
        load: gives the detector.
        image: file of the image.
        output: file of the annotated copy.
        threshold: score above which objects are drawn, 0..1.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        with require_extra():
            found = load()(image, threshold=threshold)
        assert isinstance(found, Detections)
        _save(draw(image, found), output)
    except RTDETRError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    objects = ", ".join(f"{count} {name}" for name, count in found.counts().items()) or "nothing found"
    print(f"{image}: {objects}; {output}")
    return 0


def _save(picture: Image.Image, file: Path) -> None:
    try:
        picture.convert("RGB").save(file)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {file}: {error}. Give a file such as output.jpg in a folder of yours") from None
