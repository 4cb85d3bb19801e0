"""File name extensions of exported files, by format."""

import os
from pathlib import Path

from rtdetr.errors import one_of

ENDINGS = {
    "onnx": (".onnx", ".ort"),
    "openvino": (".xml",),
    "tensorrt": (".engine", ".trt"),
    "torch": (".pt2",),
}
"""Extensions by format, as named by `--format`. `rtdetr export` writes the first; the others can be loaded too."""


def ending(format: str) -> str:
    """Return the extension of the files that `rtdetr export` writes in a format.

    Raises:
        ConfigError: the format is unknown; the message suggests the nearest one and lists all.
    """
    return ENDINGS[one_of("format", format, ENDINGS)][0]


def exported_format(path: str | os.PathLike[str]) -> str | None:
    """Return the format of an exported file by its extension; None if it is not an exported file."""
    suffix = Path(path).suffix.lower()
    return next((format for format, endings in ENDINGS.items() if suffix in endings), None)
