"""`rtdetr env`: versions and hardware for a bug report."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from rtdetr.cli.arguments import JsonFlag
from rtdetr.cli.output import echo, write_json

PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "pydantic", "pyyaml", "typer", "rich", "scipy", "safetensors"),
    *("hotcoco", "matplotlib", "tensorboard", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "tensorrt"),
    *("cuda-bindings", "transformers", "accelerate", "huggingface_hub", "timm", "albumentations", "pillow-heif"),
    *("pillow-jxl-plugin", "tifffile", "wandb", "mlflow"),
)
_CREDENTIALS = re.compile(r"(?<=://)[^/]*@")  # in the URL of a mirror


def env(as_json: JsonFlag = False) -> None:
    """Print versions, CPU, memory and GPUs for a bug report.

    Your home folder is printed as ~, and passwords are removed from URLs.
    """
    found = environment()
    if as_json:
        write_json(found, "-")
        return
    packages, variables = found.pop("packages"), found.pop("variables")
    lines = {name.removesuffix("_gib").replace("_", " "): _text(name, value) for name, value in found.items()}
    lines |= {name: version or "not installed" for name, version in packages.items()} | variables
    width = max(map(len, lines)) + 1
    echo("\n".join(f"{name + ':':{width}} {value}" for name, value in lines.items()))


def environment() -> dict[str, Any]:
    """Return everything that is printed, as plain values for JSON."""
    import platform

    from rtdetr import machine
    from rtdetr._version import __version__

    return {
        "rtdetr": __version__,
        "location": _relative(Path(__file__).parents[1]),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": machine.processor(),
        "cpu_features": machine.cpu_features(),
        "cores": machine.num_cores(),
        "memory_gib": machine.total_memory_gib(),
        "gpus": machine.nvidia_gpus(),
        "torch_devices": _torch_devices(),
        "packages": machine.package_versions(PACKAGES),
        "variables": {
            name: without_names(_CREDENTIALS.sub("", value))
            for name, value in sorted(os.environ.items())
            if name.startswith("RTDETR_")
        },
    }


def without_names(text: str) -> str:
    """Replace the home folder by ~ and the folder of this Python by PREFIX, since they may contain a user name."""
    for folder, mark in ((str(Path.home()), "~"), (sys.prefix, "PREFIX"), (sys.base_prefix, "PREFIX")):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", lambda _, mark=mark: mark, text)
    return text


def _relative(folder: Path) -> str:
    """A folder relative to ~ or PREFIX; only the end of other folders."""
    text = without_names(str(folder))
    return text if text[:1] in "~P" else "/".join(["...", *folder.parts[-2:]])


def _torch_devices() -> "list[dict[str, Any]] | str":
    """Devices that PyTorch can use, or the reason if it cannot be imported."""
    try:
        from rtdetr.devices import describe_device, list_devices

        return [describe_device(device) for device in list_devices()]
    except ModuleNotFoundError:
        return "torch is not installed"
    except Exception as error:  # the report may be about a broken installation
        return without_names(f"{type(error).__name__}: {error}")


def _text(name: str, value: object) -> str:
    if isinstance(value, dict):
        named = {key: key.removesuffix("_gib") + " " for key in value if key not in ("type", "name")}
        return ", ".join(named.get(key, "") + _text(key, item) for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_text(name, item) for item in value) or "none"
    return "unknown" if value is None else f"{value} GiB" if name.endswith("_gib") else str(value)
