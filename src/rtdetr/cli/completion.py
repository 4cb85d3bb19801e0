"""Shell completion: one table of words for the options and arguments of all commands.

Everything else is completed by the shell as file names.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

_MODELS = "models"
# "PARAMETER", or "COMMAND PARAMETER" to override it for one command
WORDS: dict[str, str | tuple[str, ...]] = {
    "model": _MODELS,
    "weights": _MODELS,
    "convert source": _MODELS,
    "config": _MODELS,
    "train config": (),
    "classes": ("coco", "voc", "ids"),
    "split": ("train", "val", "test"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "export precision": ("fp32", "fp16", "bf16", "int8"),
    "export format": ("onnx", "openvino", "tensorrt", "torch"),
    "quantize format": ("onnx", "openvino"),
    "convert format_": ("rtdetr", "official", "huggingface"),
    "bad_boxes": ("error", "drop"),
    "bad_images": ("error", "skip"),
}


def complete_words(command: Any) -> None:
    """Add completion to the options and arguments of a command and its subcommands."""
    for part in (command, *getattr(command, "commands", {}).values()):
        for parameter in part.params:
            words = WORDS.get(f"{part.name} {parameter.name}", WORDS.get(parameter.name, ()))
            if words:
                parameter.shell_complete = _completer(words)


def _completer(words: str | tuple[str, ...]) -> Any:
    def complete(_: object, incomplete: str) -> list[SimpleNamespace]:
        known = _model_names() if words == _MODELS else words
        return [SimpleNamespace(value=word, type="plain", help=None) for word in known if word.startswith(incomplete)]

    return complete


def _model_names() -> Iterable[str]:
    from rtdetr import zoo

    files = (zoo.full_name(name, tag) for name in zoo.list_models() for tag in zoo.entry(name).checkpoints or [None])
    return dict.fromkeys([*files, *zoo.list_models(), *zoo.ALIASES])
