"""`rtdetr.load`: from the name of a model or a file to something that detects."""

import logging
import os
from pathlib import Path
from typing import Any

from rtdetr.class_lists import GivenClasses
from rtdetr.config import pytorch_precision
from rtdetr.errors import ConfigError, WeightsError, naming_the_missing_extra
from rtdetr.exported_files import exported_format
from rtdetr.files import beside, with_home
from rtdetr.runtimes.arguments import whole_number
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.beside import tell_other_names

_MOST_THREADS = 1024
_log = logging.getLogger(__name__)


def load(
    source: str | os.PathLike[str],
    *,
    device: str = "auto",
    model: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    one_label: bool = False,
    nms_iou: float | None = None,
    categories: GivenClasses | None = None,
    num_threads: int | None = None,
    fast_resize: bool = False,
) -> BaseDetector:
    """Load a detector; call the result with an image to get `Detections`.

    Args:
        source: a name of `list_models()` (its published weights are downloaded once), a `.pth` checkpoint, a Hugging
            Face `.safetensors` file or a folder with `config.json` and `model.safetensors`, the folder of a training
            run (its best weights); or what `rtdetr export` writes: `.onnx` (`.ort` in ONNX Runtime's format), `.xml`
            (OpenVINO), `.engine` or `.trt` (TensorRT), `.pt2` (torch.export, AOTInductor).
        device: "cpu", "cuda", "cuda:1", ...; for OpenVINO also "gpu" and "npu". "auto" is the first CUDA device where
            the runtime can use one, else the CPU; `description` of the result says which.
        model: the network of a checkpoint that does not say which one it is: a zoo name, a published YAML file, or the
            config.json of a run.
        precision: "float32", "bfloat16" or "float16" (or "fp32", "bf16", "fp16"); "auto" is float16 on CUDA, bfloat16
            on CPUs with AMX, else float32. Exported files have theirs; OpenVINO alone can change it.
        one_label: take the best class of each query only, where published evaluation takes every pair of a query and a
            class.
        nms_iou: in each class drop detections that overlap a better one by more than this IoU, 0..1; None: keep all, as
            published evaluation does.
        categories: the classes, for a checkpoint that names none, or an `.onnx`, `.ort` or `.xml` file of another tool:
            `Categories`, names by label, or what `--classes` takes: "coco", "voc", a COCO annotation file, a YAML or
            text file with names, "ids" where rows of the class heads are category ids, or "ids:FILE".
        num_threads: CPU threads of the network; None: one a core. With torch it holds for the whole process.
        fast_resize: resize images with torch, in less than half of the time; some pixels are off by 1 of 255,
            so detections differ a little from those of exported files. For models that run in PyTorch.

    Raises:
        InputError: an `nms_iou` out of range.
        ConfigError: no such device or precision, an unknown `model`, or an option that this kind of file has not.
        WeightsError: the file is missing, damaged or of another model.
        MissingDependencyError: the package that runs this kind of file is not installed.
    """
    precision = pytorch_precision(precision)
    options: dict[str, Any] = {
        "device": str(device),
        "precision": precision,
        "one_label": one_label,
        "nms_iou": nms_iou,
    }
    given = {"model": model, "categories": categories, "num_threads": num_threads}
    given["fast_resize"] = fast_resize or None
    given = {name: value for name, value in given.items() if value is not None}
    if num_threads is not None:
        given["num_threads"] = whole_number(num_threads, "num_threads", error=ConfigError)
        if given["num_threads"] > _MOST_THREADS:
            raise ConfigError(f"num_threads must be at most {_MOST_THREADS}, got {num_threads}")
    source = os.path.expanduser(source) if isinstance(source, str) else with_home(source)
    detector = _detector(source, options, given)
    if exported_format(source):
        tell_other_names(Path(source), detector.names)
    _log.info("detecting with %s", detector.description)
    return detector


def _detector(source: str | os.PathLike[str], options: dict[str, Any], given: dict[str, Any]) -> BaseDetector:
    """Import the runtime for a kind of file, and only that one."""
    path = Path(source)
    with naming_the_missing_extra():
        match exported_format(path):
            case "onnx":
                from rtdetr.runtimes.onnx_detector import OnnxDetector

                return OnnxDetector(path, **options, **_only(("categories", "num_threads"), given, path))
            case "openvino":
                from rtdetr.runtimes.openvino_detector import OpenVINODetector

                return OpenVINODetector(path, **options, **_only(("categories", "num_threads"), given, path))
            case "torch":
                from rtdetr.runtimes.exported_program_detector import ExportedProgramDetector

                return ExportedProgramDetector(path, **options, **_only(("num_threads",), given, path))
            case "tensorrt":
                from rtdetr.runtimes.tensorrt_detector import TensorRTDetector

                return TensorRTDetector(path, **options, **_only((), given, path))
            case _ if path.suffix.lower() == ".bin" and (graph := beside(path, ".xml")).is_file():
                raise WeightsError(f"{path} has the weights of an OpenVINO model: give {graph}")
            case _:
                from rtdetr.runtimes.torch_detector import load_torch_detector

                return load_torch_detector(
                    source, **options, **_only(("model", "categories", "num_threads", "fast_resize"), given, path)
                )


def _only(known: tuple[str, ...], given: dict[str, Any], path: Path) -> dict[str, Any]:
    """The options given beside the common ones, if this kind of file has them."""
    for name in given:
        if name not in known:
            option = {"model": "--config", "categories": "--classes", "num_threads": "--threads"}.get(
                name, "--fast-resize"
            )
            kind = path.suffix or "named"
            raise ConfigError(f"{name} is not an option for {kind} models; leave it ({option}) out for {path}")
    return given
