"""Engines that report to their makers are told not to, before they are first imported."""

import os
import sys


def switch_off() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from writing an identifier into the home folder and sending it.

    An answer of the user's own stands: ORT_DISABLE_TELEMETRY that is set, or `openvino_telemetry` imported before.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # None in this table makes an import fail; OpenVINO and NNCF then use stand-ins that do nothing
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
