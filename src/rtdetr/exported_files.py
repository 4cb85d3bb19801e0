"""Exported files by the ends of their names: the one place that knows which format has which ending."""

import os
from pathlib import Path

from rtdetr.errors import one_of

ENDINGS = {
    "onnx": (".onnx", ".ort"),
    "openvino": (".xml",),
    "tensorrt": (".engine", ".trt"),
    "torch": (".pt2",),
}
"""By format, as `--format` names it. `rtdetr export` writes the first ending, the others can be read too."""


def ending(format: str) -> str:
    """The ending of the files that `rtdetr export` writes in a format.

    Raises:
        ConfigError: no such format; the message names the nearest one and all.
    """
    return ENDINGS[one_of("format", format, ENDINGS)][0]


def exported_format(path: str | os.PathLike[str]) -> str | None:
    """The format of an exported file, by the end of its name; None: it is no exported file."""
    suffix = Path(path).suffix.lower()
    return next((format for format, endings in ENDINGS.items() if suffix in endings), None)
