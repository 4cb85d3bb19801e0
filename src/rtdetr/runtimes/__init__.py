"""Detectors run a network on images. `load` chooses one by the type of file; all have the same interface."""

import os
import sys
from typing import Any

from rtdetr.runtimes.load import load
from rtdetr.runtimes.streams import Streams

__all__ = ["Streams", "load"]


def _switch_off_telemetry() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from writing an identifier to the home folder and sending it.

    The user's own choice takes precedence: ORT_DISABLE_TELEMETRY, or `openvino_telemetry` if it is already imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # its import then fails, and both use a stub


_switch_off_telemetry()  # before an engine is first imported
