"""Options of `rtdetr.load`, checked once for all runtimes, and checks of the arguments of detectors."""

import operator
import os
from dataclasses import dataclass
from typing import Any

from rtdetr.class_lists import GivenClasses
from rtdetr.config import STRIDES, pytorch_precision, size_problem
from rtdetr.errors import ConfigError, InputError, RTDETRError
from rtdetr.runtimes.streams import Streams

_MAX_THREADS = 1024
_OPTIONAL = {  # options that only some runtimes support (see `load.RUNTIMES`), and their names on the command line
    "model": "--config",
    "categories": "--classes",
    "num_threads": "--threads",
    "fast_resize": "--fast-resize",
    "tuned": "--tuned",
}


@dataclass(frozen=True)
class LoadOptions:
    """Options of `rtdetr.load`, which documents them. It replaces `tuned=True` by the settings that it reads.

    Raises:
        ConfigError: `precision` is unknown, or `num_threads` is not a positive integer, too large, or given with
            `tuned`.
        InputError: `nms_iou` is out of range.
    """

    device: str = "auto"
    model: str | os.PathLike[str] | None = None
    precision: str = "auto"
    one_label: bool = False
    nms_iou: float | None = None
    categories: GivenClasses | None = None
    num_threads: int | None = None
    fast_resize: bool = False
    tuned: bool | Streams = False

    def __post_init__(self) -> None:
        self._set("device", str(self.device))
        self._set("precision", pytorch_precision(self.precision))
        self._set("fast_resize", bool(self.fast_resize))
        if self.nms_iou is not None and not is_share(self.nms_iou):
            raise InputError(f"the NMS IoU threshold must be in 0..1, got {self.nms_iou!r}")
        if self.num_threads is not None:
            count = whole_number(self.num_threads, "num_threads", error=ConfigError)
            if count > _MAX_THREADS:
                raise ConfigError(f"num_threads must be at most {_MAX_THREADS}, got {count}")
            self._set("num_threads", count)
        if not isinstance(self.tuned, bool | Streams):
            raise ConfigError(f"tuned must be True, False or Streams(...), got {self.tuned!r}")
        if self.tuned and self.num_threads is not None:
            raise ConfigError("num_threads (--threads) cannot be combined with tuned settings, which set the threads")

    @property
    def streams(self) -> Streams | None:
        """Settings for lists of images; None: the runtime's own."""
        return self.tuned if isinstance(self.tuned, Streams) else None

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def check(self, known: tuple[str, ...], *, source: object, kind: str) -> None:
        """Check that a runtime supports the given options.

        Args:
            known: those of `model`, `categories`, `num_threads`, `fast_resize` and `tuned` that it supports.
            source: the model, for the message.
            kind: type of the model, such as ".onnx".

        Raises:
            ConfigError: an unsupported option was given.
        """
        for name, option in _OPTIONAL.items():
            if name not in known and getattr(self, name) is not getattr(LoadOptions, name):
                raise ConfigError(f"{name} ({option}) is not an option for {kind} models; leave it out for {source}")


DEFAULTS = LoadOptions()


def whole_number(value: Any, name: str, *, error: type[RTDETRError] = InputError) -> int:
    """Return a positive integer as an int.

    Raises:
        RTDETRError: of class `error`, if `value` is anything else.
    """
    number = _index(value)
    if number is None or number < 1:
        raise error(f"{name} must be an integer of at least 1, got {value!r}")
    return number


def is_share(value: Any) -> bool:
    """Whether `value` is a number in 0..1."""
    try:
        return 0 <= float(value) <= 1 and not isinstance(value, str | bytes)
    except (TypeError, ValueError, OverflowError):
        return False


def multiples_of_32(size_hw: Any) -> tuple[int, int]:
    """Return a valid network input size as two ints.

    Raises:
        InputError: `size_hw` is not two positive multiples of 32.
    """
    try:
        height, width = map(_index, () if isinstance(size_hw, str | bytes) else size_hw)
    except (TypeError, ValueError):
        height = width = None
    if height is None or width is None or min(height, width) < 1:
        raise InputError(f"expected the size as (height, width) in pixels, like (640, 640), got {size_hw!r}")
    if problem := size_problem((height, width)):
        raise InputError(f"size_hw (--size): {problem}")
    return height, width


def num_tokens(size_hw: tuple[int, int]) -> int:
    """Number of tokens in the network's three maps for an image."""
    return sum((size_hw[0] // stride) * (size_hw[1] // stride) for stride in STRIDES)


def _index(value: Any) -> int | None:
    """Return an integer as a Python int; None for anything else, including booleans."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
