"""Engines that report to their makers are told not to, before they are first imported."""

import os
import sys
from typing import Any


def switch_off() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from writing an identifier into the home folder and sending it.

    An answer of the user's own stands: ORT_DISABLE_TELEMETRY that is set, or `openvino_telemetry` imported before.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # such an import fails; both then use stand-ins that do nothing
