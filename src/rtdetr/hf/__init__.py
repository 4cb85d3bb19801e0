"""Drop-in classes for code written against transformers: `from rtdetr.hf import RTDetrV2ForObjectDetection`."""

import importlib
from typing import TYPE_CHECKING, Any

from rtdetr.errors import require_extra

if TYPE_CHECKING:
    from rtdetr.hf.configuration import RTDetrV2Config as RTDetrV2Config
    from rtdetr.hf.image_processing import RTDetrImageProcessor as RTDetrImageProcessor
    from rtdetr.hf.image_processing import RTDetrImageProcessorFast as RTDetrImageProcessorFast
    from rtdetr.hf.modeling import RTDetrV2ForObjectDetection as RTDetrV2ForObjectDetection
    from rtdetr.hf.modeling import RTDetrV2Model as RTDetrV2Model
    from rtdetr.hf.modeling import RTDetrV2PreTrainedModel as RTDetrV2PreTrainedModel
    from rtdetr.hf.registration import register as register
    from rtdetr.hf.registration import unregister as unregister

_HOMES = {
    "RTDetrImageProcessor": "image_processing",
    "RTDetrImageProcessorFast": "image_processing",
    "RTDetrV2Config": "configuration",
    "RTDetrV2ForObjectDetection": "modeling",
    "RTDetrV2Model": "modeling",
    "RTDetrV2PreTrainedModel": "modeling",
    "register": "registration",
    "unregister": "registration",
}

__all__ = [  # keys of _HOMES
    "RTDetrImageProcessor",
    "RTDetrImageProcessorFast",
    "RTDetrV2Config",
    "RTDetrV2ForObjectDetection",
    "RTDetrV2Model",
    "RTDetrV2PreTrainedModel",
    "register",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with require_extra():
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
