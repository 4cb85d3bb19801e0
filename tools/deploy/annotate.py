"""Shared by the published deploy scripts: detect objects in one image and save an annotated copy."""

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
        load: returns the detector.
        image: image file.
        output: file for the annotated copy.
        threshold: score threshold, 0..1.
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


def _save(image: Image.Image, file: Path) -> None:
    try:
        image.convert("RGB").save(file)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {file}: {error}; expected a writable path such as output.jpg") from None
