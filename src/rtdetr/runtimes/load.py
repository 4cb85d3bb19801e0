"""`rtdetr.load`: from the name of a model or a file to something that detects."""

import os
from pathlib import Path

from rtdetr.detections import Detector
from rtdetr.errors import InputError, naming_the_missing_extra

_EXPORTED = {".onnx": "ONNX", ".xml": "OpenVINO", ".engine": "TensorRT", ".trt": "TensorRT", ".pt2": "torch.export"}


def load(
    source: str | os.PathLike[str],
    *,
    device: str = "auto",
    model: str | None = None,
    precision: str = "auto",
    one_label: bool = False,
    nms_iou: float | None = None,
) -> Detector:
    """Load a detector; call the result with an image to get `Detections`.

    Args:
        source: a name of `list_models()` (its published weights are downloaded once), a `.pth` checkpoint, a Hugging
            Face `.safetensors` file or a folder with `config.json` and `model.safetensors`.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is the first CUDA device, else the CPU.
        model: the zoo name of the network, for a checkpoint that does not say which one it is.
        precision: "float32", "bfloat16" or "float16"; "auto" is float16 on CUDA, bfloat16 on CPUs with AMX, else
            float32.
        one_label: take the best class of each query only, where published evaluation takes every pair of a query and a
            class.
        nms_iou: in each class drop detections that overlap a better one by more than this IoU, 0..1; None: keep all, as
            published evaluation does.

    Raises:
        InputError: no runtime for this kind of file, or an `nms_iou` out of range.
        ConfigError: no such device or precision, or an unknown `model`.
        WeightsError: the file is missing, damaged or of another model.
        MissingDependencyError: PyTorch is not installed.
    """
    kind = _EXPORTED.get(Path(source).suffix.lower())
    if kind:
        raise InputError(
            f"{source}: this version cannot run {kind} files; load the .pth or .safetensors file it was made from"
        )
    with naming_the_missing_extra():
        from rtdetr.runtimes.torch_detector import load_torch_detector
    return load_torch_detector(
        source, device=device, model=model, precision=precision, one_label=one_label, nms_iou=nms_iou
    )
