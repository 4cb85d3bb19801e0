"""Turn off the telemetry of engines before they are first imported."""

import os
import sys
from typing import Any


def switch_off() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from writing an identifier to the home folder and sending it.

    The user's own choice takes precedence: ORT_DISABLE_TELEMETRY, or `openvino_telemetry` if it is already imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # its import then fails, and both use a stub
