"""The library's own errors. A message says which value is wrong and where, what was expected, and what to do."""

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator

OPTIONAL_PACKAGES = {  # import name -> the extra of rtdetr that installs it
    "torch": "torch",
    "torchvision": "torch",
    "jaxtyping": "torch",
    "scipy": "torch",
    "safetensors": "torch",
    "hotcoco": "torch",
    "matplotlib": "torch",
    "tensorboard": "torch",
    "transformers": "hf",
    "accelerate": "hf",
    "huggingface_hub": "hf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncf": "quantize",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "timm": "timm",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
EXTRAS = {  # the packages that each extra of rtdetr installs, without those of other extras
    "torch": "torch torchvision jaxtyping scipy safetensors hotcoco matplotlib tensorboard",
    "hf": "transformers huggingface_hub accelerate",
    "onnx": "onnx onnxruntime",
    "openvino": "openvino",
    "quantize": "nncf",
    "tensorrt": "tensorrt cuda-bindings",
    "timm": "timm",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
_LONGEST_VALUE, _KEPT, _KEPT_END = 400, 200, 60  # characters
_LONG_VALUE = re.compile(rf"(?s)(?<!\w)(['\"])(?:(?!\1(?!\w)).){{{_LONGEST_VALUE},}}\1|\S{{{_LONGEST_VALUE},}}")


class RTDETRError(Exception):
    """Base of all errors of this library; the command line prints the message on one line and exits with status 2.

    Long quoted values are shortened in the message, so that the text after them stays visible.
    """

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(_with_short_quotes(str(message)), *more)


class ConfigError(RTDETRError, ValueError):
    """A setting, option or model name does not exist, or its value is invalid."""


class InputError(RTDETRError, ValueError):
    """An image, tensor or argument is invalid for the called function."""


class DatasetError(RTDETRError, ValueError):
    """A dataset file, annotation or image is missing, broken or contradicts another one."""


class MissingSplitError(DatasetError):
    """The dataset does not have the requested split; errors in an existing split are other dataset errors."""


class MissingFolderError(DatasetError):
    """A dataset file names an image folder or image list that does not exist."""


class WeightsError(RTDETRError, RuntimeError):
    """A checkpoint is missing, damaged or belongs to another model."""


class TrainingError(RTDETRError, RuntimeError):
    """A training run cannot continue: the loss is not finite, or the output folder cannot be written."""


class ExportError(RTDETRError, RuntimeError):
    """A model cannot be exported with these options."""


class MissingDependencyError(RTDETRError, ImportError):
    """A required optional package is not installed; the message names the extra that installs it."""


def _with_short_quotes(message: str) -> str:
    """Shorten quoted values and words that are longer than any name."""
    if len(message) <= _LONGEST_VALUE:
        return message
    return _LONG_VALUE.sub(lambda found: f"{found[0][:_KEPT]} ... {found[0][-_KEPT_END:]}", message)


def one_line(error: RTDETRError) -> str:
    """Return an error as the command line prints it: the name of its public base class, and its message."""
    kind = next(kind for kind in type(error).__mro__ if RTDETRError in kind.__bases__ or kind is RTDETRError)
    return f"{kind.__name__}: {' '.join(str(error).split())}"


LOG_RECORDS_VARIABLE = "RTDETR_LOG_RECORDS"
"""Environment variable: folder where the processes of one command record logged messages; see `is_first_report`."""


def is_first_report(line: str) -> bool:
    """Whether no other process of this command has logged the same line."""
    folder = os.environ.get(LOG_RECORDS_VARIABLE)
    if folder is None:
        return True
    try:
        note = os.path.join(folder, hashlib.sha256(line.encode(errors="replace")).hexdigest())
        os.close(os.open(note, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # logging a message twice is better than not at all
        return True
    return True


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string if none is close.

    Private names, which begin with an underscore, are not suggested.
    """
    lowered = {k.lower(): k for k in known if not k.startswith("_")}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def one_of(what: str, value: str, known: Iterable[str]) -> str:
    """Return the value if it is a known name.

    Raises:
        ConfigError: it is unknown; the message suggests the nearest name and lists all.
    """
    known = list(known)
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}.{nearest(value, known)} Known: {', '.join(known)}.")
    return value


@contextlib.contextmanager
def require_extra() -> Iterator[None]:
    """Turn the failed import of an optional package in the block into an error that says what to install.

    It names the packages and not `rtdetr[EXTRA]`, which pip would look up in an index wherever rtdetr itself came from.

    Raises:
        MissingDependencyError: a package of `OPTIONAL_PACKAGES` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL_PACKAGES:
            raise
        extra = OPTIONAL_PACKAGES[package]
        raise MissingDependencyError(
            f"this needs the package {package!r} (extra {extra!r} of rtdetr), which is not installed. Run: pip install "
            f"{EXTRAS[extra]}"
        ) from error
