"""`rtdetr.load`: load a detector by model name or from a file."""

import importlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.errors import ConfigError, WeightsError, require_extra
from rtdetr.exported_files import exported_format
from rtdetr.files import with_home, with_suffix_any_case
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.class_name_check import warn_other_names
from rtdetr.runtimes.options import LoadOptions
from rtdetr.runtimes.streams import Streams
from rtdetr.runtimes.tuned_file import read_tuned, warn_other_conditions

_log = logging.getLogger(__name__)


class Runtime(NamedTuple):
    """The runtime for a type of file.

    module: module of this package, imported when the first such file is loaded, because it needs the runtime's package.
    opener: name of the class or function in it that takes the file and `LoadOptions` and returns a detector.
    options: supported fields of `LoadOptions`, in addition to those that all runtimes support.
    """

    module: str
    opener: str
    options: tuple[str, ...] = ()


RUNTIMES = {
    "onnx": Runtime("onnx_detector", "OnnxDetector", ("categories", "num_threads", "tuned")),
    "openvino": Runtime("openvino_detector", "OpenVINODetector", ("categories", "num_threads", "tuned")),
    "tensorrt": Runtime("tensorrt_detector", "TensorRTDetector"),
    "torch": Runtime("exported_program_detector", "ExportedProgramDetector", ("num_threads",)),
}
"""Runtimes by format (see `rtdetr.exported_files`). PyTorch runs everything else: checkpoints, folders, model names."""
_TORCH = Runtime(
    "torch_detector", "load_torch_detector", ("model", "categories", "num_threads", "fast_resize", "tuned")
)


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
    tuned: bool | Streams = False,
) -> BaseDetector:
    """Load a detector; call the result with an image to get `Detections`.

    Args:
        source: a name of `list_models()` (its published weights are downloaded once), a `.pth` checkpoint, a Hugging
            Face `.safetensors` file or a folder with `config.json` and `model.safetensors`, the folder of a training
            run (its best weights), or a file that `rtdetr export` writes: `.onnx` (`.ort` in ONNX Runtime's format),
            `.xml` (OpenVINO), `.engine` or `.trt` (TensorRT), `.pt2` (torch.export, AOTInductor).
        device: "cpu", "cuda", "cuda:1", ...; for OpenVINO also "gpu" and "npu". "auto" is the first CUDA device if the
            runtime supports CUDA, otherwise the CPU; see `description` of the result.
        model: the network of a checkpoint that does not name it: a zoo name, a published YAML file, or the config.json
            of a run.
        precision: "float32", "bfloat16" or "float16" (or "fp32", "bf16", "fp16"); "auto" is float16 on CUDA, bfloat16
            on CPUs with AMX, otherwise float32. Exported files have a fixed precision, except in OpenVINO.
        one_label: return only the best class of each query; published evaluation uses all query-class pairs.
        nms_iou: NMS IoU threshold, 0..1, applied per class; None: no NMS, like published evaluation.
        categories: the classes, if a checkpoint does not name them, or for an `.onnx`, `.ort` or `.xml` file of another
            tool: `Categories`, names by label, or a value of `--classes`: "coco", "voc", a COCO annotation file, a YAML
            or text file with names, "ids" if rows of the class heads are category ids, or "ids:FILE".
        num_threads: number of CPU threads; None: one per core. With torch it applies to the whole process.
        fast_resize: resize images with torch, in less than half the time; some pixels differ by 1/255, so detections
            differ slightly from those of exported files. Only for models that run in PyTorch.
        tuned: run lists of images with the settings that `rtdetr benchmark MODEL --throughput --save-tuned` has stored
            beside the model file, or with the given `Streams`; on CPUs, not for `.pt2` files. Single images are not
            affected.

    Raises:
        InputError: `nms_iou` is out of range.
        ConfigError: the device, precision or `model` does not exist, the type of file does not support an option, or
            there are no tuned settings.
        WeightsError: the file is missing, damaged or of another model.
        MissingDependencyError: the package that runs this type of file is not installed.
    """
    options = LoadOptions(
        device=device,
        model=model,
        precision=precision,
        one_label=one_label,
        nms_iou=nms_iou,
        categories=categories,
        num_threads=num_threads,
        fast_resize=fast_resize,
        tuned=tuned,
    )
    source = os.path.expanduser(source) if isinstance(source, str) else with_home(source)
    path, format = Path(source), exported_format(source)
    if path.suffix.lower() == ".bin" and (graph := with_suffix_any_case(path, ".xml")).is_file():
        raise WeightsError(f"{path} contains the weights of an OpenVINO model: pass {graph}")
    runtime = _TORCH if format is None else RUNTIMES[format]
    options.check(runtime.options, source=path, kind=path.suffix or "named")
    settings = read_tuned(path) if options.tuned is True else None
    if settings is not None:
        options = replace(options, tuned=settings.streams)
    with require_extra():
        opener = getattr(importlib.import_module(f"rtdetr.runtimes.{runtime.module}"), runtime.opener)
        detector: BaseDetector = opener(source if format is None else path, options)
    if options.tuned and not detector.on_cpu:
        raise ConfigError(
            f"tuned settings are for CPUs, and {path} runs on {detector.where}: add --device cpu, or omit them"
        )
    if settings is not None:
        warn_other_conditions(path, settings, precision=detector.precision)
    if format is not None:
        warn_other_names(path, detector.names)
        if "categories" in runtime.options and detector.categories == Categories.numbered(len(detector.names)):
            _log.info("%s does not name its classes; name them with --classes FILE (Python: categories=...)", path)
    _log.info("detecting with %s", detector.description)
    return detector
