"""`LoadOptions`: how a detector is to run, checked once, whatever runs it."""

import os
from dataclasses import dataclass
from typing import Any

from rtdetr.class_lists import GivenClasses
from rtdetr.config import pytorch_precision
from rtdetr.errors import ConfigError, InputError
from rtdetr.runtimes.arguments import is_share, whole_number

_MOST_THREADS = 1024
_SPECIAL = {  # options that only some runtimes have, see `load.RUNTIMES`, and their names on the command line
    "model": "--config",
    "categories": "--classes",
    "num_threads": "--threads",
    "fast_resize": "--fast-resize",
}


@dataclass(frozen=True)
class LoadOptions:
    """The options of `rtdetr.load`, which documents them.

    Raises:
        ConfigError: an unknown `precision`, or a `num_threads` that is no count or is too large.
        InputError: an `nms_iou` out of range.
    """

    device: str = "auto"
    model: str | os.PathLike[str] | None = None
    precision: str = "auto"
    one_label: bool = False
    nms_iou: float | None = None
    categories: GivenClasses | None = None
    num_threads: int | None = None
    fast_resize: bool = False

    def __post_init__(self) -> None:
        self._set("device", str(self.device))
        self._set("precision", pytorch_precision(self.precision))
        self._set("fast_resize", bool(self.fast_resize))
        if self.nms_iou is not None and not is_share(self.nms_iou):
            raise InputError(f"the IoU for non-maximum suppression must be in 0..1, got {self.nms_iou!r}")
        if self.num_threads is not None:
            count = whole_number(self.num_threads, "num_threads", error=ConfigError)
            if count > _MOST_THREADS:
                raise ConfigError(f"num_threads must be at most {_MOST_THREADS}, got {count}")
            self._set("num_threads", count)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def check(self, known: tuple[str, ...], *, source: object, kind: str) -> None:
        """Refuse options that a runtime does not have.

        Args:
            known: which of `model`, `categories`, `num_threads` and `fast_resize` it has.
            source: the model, for the message.
            kind: of model, such as ".onnx".

        Raises:
            ConfigError: another one was given.
        """
        for name, option in _SPECIAL.items():
            if name not in known and getattr(self, name) is not getattr(LoadOptions, name):
                raise ConfigError(f"{name} is not an option for {kind} models; leave it ({option}) out for {source}")


DEFAULTS = LoadOptions()
