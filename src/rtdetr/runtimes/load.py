"""`rtdetr.load`: from the name of a model or a file to something that detects."""

import importlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.errors import WeightsError, require_extra
from rtdetr.exported_files import exported_format
from rtdetr.files import beside, with_home
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.beside import tell_other_names
from rtdetr.runtimes.options import LoadOptions

_log = logging.getLogger(__name__)


class Runtime(NamedTuple):
    """What runs a kind of file.

    module: of this room; it is imported when the first such file is loaded, because it needs the runtime's package.
    opener: the name in it of what takes the file and `LoadOptions`, and gives a detector.
    options: those of `LoadOptions` that it has, beside the ones that all have.
    """

    module: str
    opener: str
    options: tuple[str, ...] = ()


RUNTIMES = {
    "onnx": Runtime("onnx_detector", "OnnxDetector", ("categories", "num_threads")),
    "openvino": Runtime("openvino_detector", "OpenVINODetector", ("categories", "num_threads")),
    "tensorrt": Runtime("tensorrt_detector", "TensorRTDetector"),
    "torch": Runtime("exported_program_detector", "ExportedProgramDetector", ("num_threads",)),
}
"""By format (see `rtdetr.exported_files`). All else is for PyTorch: checkpoints, folders and names of models."""
_TORCH = Runtime("torch_detector", "load_torch_detector", ("model", "categories", "num_threads", "fast_resize"))


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
    options = LoadOptions(
        device=device,
        model=model,
        precision=precision,
        one_label=one_label,
        nms_iou=nms_iou,
        categories=categories,
        num_threads=num_threads,
        fast_resize=fast_resize,
    )
    source = os.path.expanduser(source) if isinstance(source, str) else with_home(source)
    path, format = Path(source), exported_format(source)
    if path.suffix.lower() == ".bin" and (graph := beside(path, ".xml")).is_file():
        raise WeightsError(f"{path} has the weights of an OpenVINO model: give {graph}")
    runtime = _TORCH if format is None else RUNTIMES[format]
    options.check(runtime.options, source=path, kind=path.suffix or "named")
    with require_extra():
        opener = getattr(importlib.import_module(f"rtdetr.runtimes.{runtime.module}"), runtime.opener)
        detector: BaseDetector = opener(source if format is None else path, options)
    if format is not None:
        tell_other_names(path, detector.names)
        if "categories" in runtime.options and detector.categories == Categories.numbered(len(detector.names)):
            _log.info("%s does not name its classes; name them with --classes FILE (Python: categories=...)", path)
    _log.info("detecting with %s", detector.description)
    return detector
