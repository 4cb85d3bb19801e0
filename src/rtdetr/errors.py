"""Errors raised on purpose. A message says what was expected, what came, where, and what to do next."""

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator

OPTIONAL_PACKAGES = {  # import name -> the extra of this package that brings it
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
_LONGEST_VALUE, _KEPT, _KEPT_END = 400, 200, 60  # characters
_LONG_VALUE = re.compile(rf"(?s)(?<!\w)(['\"])(?:(?!\1(?!\w)).){{{_LONGEST_VALUE},}}\1|\S{{{_LONGEST_VALUE},}}")


class RTDETRError(Exception):
    """Base of all errors raised on purpose; the command line prints its message on one line and exits with status 2.

    Quoted values that are long are cut in the message: what was expected stands behind them.
    """

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(_with_short_quotes(str(message)), *more)


class ConfigError(RTDETRError, ValueError):
    """A setting, option or model name that does not exist or cannot hold the value given."""


class InputError(RTDETRError, ValueError):
    """An image, tensor or argument that the called function cannot work on."""


class DatasetError(RTDETRError, ValueError):
    """A dataset file, annotation or image that is missing, broken or contradicts another."""


class MissingSplitError(DatasetError):
    """A dataset that does not have the split asked for; any other DatasetError is about one that it has or names."""


class MissingFolderError(DatasetError):
    """A dataset file that names a folder or list of images that is not there."""


class WeightsError(RTDETRError, RuntimeError):
    """A checkpoint that is missing, damaged or made for another model."""


class TrainingError(RTDETRError, RuntimeError):
    """A training run that cannot go on: a loss that is not finite, a checkpoint folder that cannot be written."""


class ExportError(RTDETRError, RuntimeError):
    """A model that cannot be exported as asked."""


class MissingDependencyError(RTDETRError, ImportError):
    """An optional package is needed and not installed; the message names the extra that brings it."""


def _with_short_quotes(message: str) -> str:
    """Cut what stands between quotes, or without a space, where it is longer than any name is."""
    if len(message) <= _LONGEST_VALUE:
        return message
    return _LONG_VALUE.sub(lambda found: f"{found[0][:_KEPT]} ... {found[0][-_KEPT_END:]}", message)


def one_line(error: RTDETRError) -> str:
    """Return what the command line prints of an error: its kind, one of those that users know, and its message."""
    kind = next(kind for kind in type(error).__mro__ if RTDETRError in kind.__bases__ or kind is RTDETRError)
    return f"{kind.__name__}: {' '.join(str(error).split())}"


SAID_IN = "RTDETR_SAID_IN"
"""Variable that names a folder where the processes of one command note what they have said; see `is_news`."""


def is_news(line: str) -> bool:
    """Whether no other process of this command has said the same."""
    folder = os.environ.get(SAID_IN)
    if folder is None:
        return True
    try:
        note = os.path.join(folder, hashlib.sha256(line.encode(errors="replace")).hexdigest())
        os.close(os.open(note, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:  # better twice than never
        return True
    return True


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string when none is close.

    Names that begin with an underscore are nobody's to write, and are not suggested.
    """
    lowered = {k.lower(): k for k in known if not k.startswith("_")}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def one_of(what: str, value: str, known: Iterable[str]) -> str:
    """Return a value if it is a known one.

    Raises:
        ConfigError: it is not; the message names the nearest one and all.
    """
    known = list(known)
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}.{nearest(value, known)} Known: {', '.join(known)}.")
    return value


@contextlib.contextmanager
def require_extra() -> Iterator[None]:
    """Turn the failed import of an optional package inside the block into an error that names the extra to install.

    Raises:
        MissingDependencyError: one of `OPTIONAL_PACKAGES` is needed and not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL_PACKAGES:
            raise
        extra = OPTIONAL_PACKAGES[package]
        raise MissingDependencyError(
            f"this needs the package {package!r}, which is not installed. Run: pip install 'rtdetr[{extra}]'"
        ) from error
