"""Tuned settings: a small JSON file beside a model, written by `rtdetr benchmark MODEL --throughput --save-tuned`.

It is named after the whole file name, `model.xml.tuned.json` beside `model.xml`, because `model.onnx` and `model.xml`
are often in one folder and need different settings. It records what it was measured on. `rtdetr.load(..., tuned=True)`
reads it, and says what differs here.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rtdetr._version import __version__
from rtdetr.config import Size, SizeHW
from rtdetr.errors import ConfigError
from rtdetr.exported_files import exported_format
from rtdetr.files import sha256_of, write_text
from rtdetr.machine import num_cores, package_versions, processor
from rtdetr.runtimes.streams import Streams
from rtdetr.strict import Strict
from rtdetr.text_files import read_json

_log = logging.getLogger(__name__)
_PACKAGES = {"onnx": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}  # any other file needs torch
FORMAT_VERSION = 1


class TunedSettings(Strict):
    """Content of the file: the settings, and what they were measured on.

    Attributes:
        streams: the settings.
        model_sha256: hash of the model file; of an OpenVINO model the `.xml` file.
        processor: name of the processor.
        cores: number of cores that the process could use.
        runtime: package and version of the runtime, such as "openvino 2026.4.1".
        rtdetr: version of this library.
        precision: precision in which the network ran.
        size_hw: height and width of the network's input.
        images_per_second: throughput from files in memory to detections.
        ratio: the same, relative to one stream on all cores with the smallest batch.
        date: day of the measurement.
    """

    format_version: Literal[1] = FORMAT_VERSION
    streams: Streams
    model_sha256: str
    processor: str
    cores: Size | None
    runtime: str
    rtdetr: str
    precision: str
    size_hw: SizeHW
    images_per_second: float
    ratio: float
    date: str

    @classmethod
    def of_model(
        cls,
        model: Path,
        streams: Streams,
        *,
        precision: str,
        size_hw: tuple[int, int],
        images_per_second: float,
        ratio: float,
    ) -> "TunedSettings":
        """Return the settings with a description of the model file and of this machine."""
        return cls(
            streams=streams,
            model_sha256=sha256_of(model),
            processor=processor(),
            cores=num_cores(),
            runtime=_runtime_of(model),
            rtdetr=__version__,
            precision=precision,
            size_hw=size_hw,
            images_per_second=images_per_second,
            ratio=ratio,
            date=time.strftime("%Y-%m-%d"),
        )

    def differences(self, model: Path, *, precision: str) -> Iterable[str]:
        """Yield what differs here from the measurement, in words."""
        here = {"processor": processor(), "number of cores": num_cores(), "runtime": _runtime_of(model)}
        there = {"processor": self.processor, "number of cores": self.cores, "runtime": self.runtime}
        for name, value in ({**there, "precision": self.precision}).items():
            if value != (found := {**here, "precision": precision}[name]):
                yield f"{name} {value}, here {found}"
        if self.model_sha256 != sha256_of(model):
            yield "another content of the model file"


def tuned_path(model: Path) -> Path:
    """Return the path of the tuned settings of a model file.

    Raises:
        ConfigError: it is not a file, but a folder or the name of a model.
    """
    if not model.is_file():
        raise ConfigError(
            f"tuned settings are stored beside a model file, and {model} is "
            f"{'a folder' if model.is_dir() else 'not a file'}: pass the weight file or exported file"
        )
    return model.with_name(f"{model.name}.tuned.json")


def save_tuned(model: Path, settings: TunedSettings) -> Path:
    """Write tuned settings beside a model file and return their path.

    Raises:
        ConfigError: the file cannot be written.
    """
    return write_text(tuned_path(model), settings.model_dump_json(indent=1) + "\n", error=ConfigError)


def read_tuned(model: Path) -> TunedSettings:
    """Read the tuned settings beside a model file.

    Raises:
        ConfigError: there are none, or the file is damaged.
    """
    path, command = tuned_path(model), f"rtdetr benchmark {model} --throughput --save-tuned"
    if not path.is_file():
        raise ConfigError(f"{model} has no tuned settings: {path} does not exist. Measure them with: {command}")
    values = read_json(path, what="file of tuned settings", error=ConfigError)
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ConfigError(f"{path}: its format {version} is newer than {FORMAT_VERSION}; upgrade rtdetr")
    try:
        return TunedSettings.from_record(values)
    except (ConfigError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} does not contain tuned settings: {error} Measure them again with: {command}"
        ) from None


def warn_other_conditions(model: Path, settings: TunedSettings, *, precision: str) -> None:
    """Say in one warning what differs from the measurement; the settings are used all the same."""
    if different := list(settings.differences(model, precision=precision)):
        _log.warning(
            "the tuned settings of %s were measured on %s. They are used, but others may be faster here; measure again "
            "with: rtdetr benchmark %s --throughput --save-tuned",
            *(model, "; ".join(different), model),
        )


def _runtime_of(model: Path) -> str:
    versions = package_versions(_PACKAGES.get(exported_format(model) or "", ("torch",)))
    return next((f"{package} {version}" for package, version in versions.items() if version is not None), "unknown")
