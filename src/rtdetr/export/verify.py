"""`verify` compares the detections of an exported model with those of PyTorch in float32.

`agreement.py` counts matches; `stages.py` finds the stage where the models start to differ.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.categories import Categories
from rtdetr.config import DEFAULT_SIZE_HW, STRIDE
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.detections import Detections, Detector
from rtdetr.devices import DTYPES
from rtdetr.errors import ExportError, WeightsError
from rtdetr.evaluation import evaluate_dataset
from rtdetr.export.agreement import Tolerance, class_difference, compare
from rtdetr.export.formats import FORMATS, imported
from rtdetr.export.report import VerifyReport
from rtdetr.export.samples import images_to_compare
from rtdetr.export.stages import first_diverging, shows_stages, stage_errors
from rtdetr.exported_files import exported_format
from rtdetr.files import with_suffix_any_case
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR
from rtdetr.preprocessing import resize
from rtdetr.runtimes import load
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.options import LoadOptions
from rtdetr.runtimes.torch_detector import TorchDetector, load_torch_detector

_SINGLE = Tolerance(matched=1.0, iou=0.999, score=1e-3, ap_drop=0.001, pixels=0.02)
_HALF = Tolerance(matched=0.98, iou=0.95, score=0.02, ap_drop=0.005, pixels=0.2)
TOLERANCES = {"fp32": _SINGLE, "fp16": _HALF, "bf16": _HALF}
RESIZED = Tolerance(matched=0.95, iou=0.95, score=0.05, ap_drop=0.005, pixels=0.2)
"""Tolerance if the graph resizes: some of its pixels differ from the library's own by 1/255."""
THRESHOLD = 0.3
_TIMED_RUNS = 5
_BATCH_SIZE = 4  # images to run as one batch, if the batch is dynamic
_STRONGEST = 5  # detections per image to compare if none is above the threshold


def int8_tolerance(max_drop: float) -> Tolerance:
    """Return the tolerance of INT8: a limit on the loss of AP; agreement on images is only reported."""
    return Tolerance(matched=0.0, iou=0.9, score=0.1, ap_drop=max_drop)


def verify(
    exported: str | os.PathLike[str] | Detector,
    reference: str | os.PathLike[str] | RTDETR | TorchDetector,
    *,
    images: Sequence[Any] | None = None,
    tolerance: Tolerance | None = None,
    threshold: float = THRESHOLD,
    data: str | os.PathLike[str] | DetectionDataset | None = None,
) -> VerifyReport:
    """Compare an exported model with the PyTorch model it was exported from, on the CPU in float32.

    Args:
        exported: a file that `rtdetr.load` accepts, or a loaded detector.
        reference: the checkpoint, network or float32 detector.
        images: images with objects that the model knows, as for a detector; None: some of `data`, otherwise the
            built-in ones.
        tolerance: allowed differences; None: those of the file's precision if it is float16 or bfloat16, otherwise
            those of float32.
        threshold: only detections above this score are compared, 0..1.
        data: dataset to also compare average precision on; of a path, the "val" split.

    Raises:
        InputError: no images, or an image that cannot be read.
        DatasetError: the dataset is missing or broken, or has other classes.
        WeightsError: the file is damaged or not an RT-DETR model.
        ExportError: the output of the reference is not finite.
    """
    detector = _load(exported) if isinstance(exported, str | os.PathLike) else exported
    original = _reference(reference, detector.categories)
    tolerance = tolerance or _own_tolerance(detector)
    dataset = data if data is None or isinstance(data, DetectionDataset) else open_dataset(data, split="val")
    samples = images_to_compare(images, dataset, original.in_channels)
    size_hw: tuple[int, int] = getattr(detector, "size_hw", original.size_hw)
    path = Path(exported) if isinstance(exported, str | os.PathLike) else None
    both, failure = _detections(detector, original, samples, max(0.0, threshold - tolerance.score), size_hw)
    agreement = compare(*both, threshold=threshold, tolerance=tolerance)
    is_weak = False
    if not failure and not agreement.is_conclusive:
        both, failure = _detections(detector, original, samples, 0.0, size_hw)
        scores = np.sort(np.concatenate([one.scores for one in both[0]]))[::-1]
        if is_weak := len(scores) > 0:
            count = _STRONGEST * len(both[0])
            threshold = float(scores[count]) if len(scores) > count else 0.0
            if tolerance.score > TOLERANCES["fp32"].score and path and shows_stages(path):
                tolerance = replace(tolerance, matched=0.0)  # rounding decides between weak queries; stages count
            agreement = compare(*both, threshold=threshold, tolerance=tolerance)
    errors: dict[str, float] = {}
    if path and (failure or is_weak or agreement.matched_share < tolerance.matched):
        with contextlib.suppress(*([Exception] if failure else [])):  # an engine that cannot run it raises many types
            image = resize(samples[0], size_hw)
            errors = stage_errors(path, original.network, image, of_most_queries=is_weak) or {}
    other_class = class_difference(original.categories, detector.categories)
    aps = (None, None)
    if dataset is not None and other_class is None and not failure:
        aps = (measure_ap(detector, dataset, size_hw=size_hw), measure_ap(original, dataset, size_hw=size_hw))
    return VerifyReport(
        model=path.name if path else str(getattr(detector, "description", detector)),
        reference=original.description,
        num_images=len(samples),
        threshold=threshold,
        tolerance=tolerance,
        agreement=agreement,
        size_bytes=size_in_bytes(path) if path else None,
        num_nodes=count_nodes(path) if path else None,
        latency_ms=None if failure else _latency_ms(detector, samples[0], size_hw),
        reference_latency_ms=_latency_ms(original, samples[0], size_hw),
        is_weak=is_weak,
        failure=failure,
        class_difference=other_class,
        stage_errors=errors,
        diverging=first_diverging(errors, tolerance),
        ap=aps[0],
        reference_ap=aps[1],
    )


def _detections(
    detector: Detector,
    original: TorchDetector,
    images: Sequence[LoadedImage],
    lowest: float,
    size_hw: tuple[int, int],
) -> tuple[tuple[list[Detections], list[Detections]], str | None]:
    """Return the detections of the original and of the detector in pixels of `size_hw`, and the detector's failure.

    With a dynamic batch, some images are also run as one batch; with a dynamic size, one is also run at another size.
    Images are resized here, unless the graph resizes, so that only the network is compared.
    """
    small = [_resized(one, size_hw) for one in images]
    try:
        expected = [_detect(original, one, lowest, size_hw) for one in small]
    except WeightsError as error:
        raise ExportError(f"cannot compare, because the output of the reference is not finite: {error}") from None
    try:
        if isinstance(detector, BaseDetector) and detector.metadata.preprocess == "in_graph":
            return (expected, [_scaled(_detect(detector, one, lowest, size_hw), size_hw) for one in images]), None
        found = [_detect(detector, one, lowest, size_hw) for one in small]
        if not isinstance(detector, BaseDetector) or detector.has_ranges:
            return (expected, found), None
        if detector.metadata.dynamic_batch and len(small) > 1:
            expected += expected[:_BATCH_SIZE]
            found += _detect_batch(detector, small[:_BATCH_SIZE], lowest, size_hw)
        if detector.metadata.dynamic_size:
            other = (size_hw[0] + STRIDE, size_hw[1] + 2 * STRIDE)
            expected.append(_detect(original, _resized(images[0], other), lowest, other))
            found.append(_detect(detector, _resized(images[0], other), lowest, other))
        return (expected, found), None
    except WeightsError as error:  # the engine rejects the graph, or outputs NaN
        return (expected, [one.above(1.0) for one in expected]), str(error)


def size_in_bytes(path: Path) -> int:
    """Size of a model file and its separate file of weights, if any."""
    weights = (
        with_suffix_any_case(path, ".bin") if path.suffix.lower() == ".xml" else path.with_name(path.name + ".data")
    )
    return sum(file.stat().st_size for file in (path, weights) if file.is_file())


def count_nodes(path: Path) -> int | None:
    """Number of operations in the graph of an ONNX or OpenVINO file; None for other formats."""
    if path.suffix.lower() == ".onnx":
        import onnx

        return len(onnx.load(path, load_external_data=False).graph.node)
    if path.suffix.lower() == ".xml":
        from rtdetr.export.openvino import count_operations
        from rtdetr.runtimes.openvino_core import read_ir

        return count_operations(read_ir(path))
    return None


def _load(path: str | os.PathLike[str]) -> Detector:
    """Load the detector of a file with the format's own loader, or with `rtdetr.load` in the precision of the file."""
    form = FORMATS.get(exported_format(path) or "")
    if form is not None and form.load is not None:
        return imported(form.load)(Path(path))
    detector = load(path, device="cpu")
    stored = getattr(getattr(detector, "metadata", None), "precision", None)
    if stored in DTYPES and getattr(detector, "precision", stored) != stored:
        return load(path, device="cpu", precision=stored)
    return detector


def _reference(reference: str | os.PathLike[str] | RTDETR | TorchDetector, categories: Categories) -> TorchDetector:
    if isinstance(reference, TorchDetector):
        return reference
    if isinstance(reference, RTDETR):
        return TorchDetector(reference, categories, device="cpu", precision="float32")
    return load_torch_detector(reference, LoadOptions(device="cpu", precision="float32"))


def _detect(detector: Detector, image: LoadedImage, threshold: float, size_hw: tuple[int, int]) -> Detections:
    found = detector(image, threshold=threshold, size_hw=size_hw)
    assert isinstance(found, Detections)  # one image was given
    return found


def _detect_batch(
    detector: BaseDetector, images: Sequence[LoadedImage], threshold: float, size_hw: tuple[int, int]
) -> list[Detections]:
    """Detect in one batch, even if the detector itself would run the images one by one."""
    batch = detector.batch([detector.prepare(one, size_hw) for one in images])
    return detector.finish(detector.infer(batch), batch.sizes_wh, thresholds=detector.by_class(threshold))


def _own_tolerance(detector: Detector) -> Tolerance:
    """Return the tolerance for the precision of a file; that of INT8 is not known here."""
    precision = getattr(getattr(detector, "metadata", None), "precision", "float32")
    return _HALF if precision in ("float16", "bfloat16") else TOLERANCES["fp32"]


def _resized(image: LoadedImage, size_hw: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(resize(image, size_hw).transpose(1, 2, 0))


def _scaled(found: Detections, size_hw: tuple[int, int]) -> Detections:
    """Scale detections to another image size, which does not change IoUs."""
    height, width = size_hw
    ratio = np.array([width / found.image_size_wh[0], height / found.image_size_wh[1]] * 2)
    return replace(found, boxes_xyxy=found.boxes_xyxy * ratio, image_size_wh=(width, height))


def _latency_ms(detector: Detector, image: LoadedImage, size_hw: tuple[int, int]) -> float:
    """Median time per image, after an untimed warm-up run."""
    _detect(detector, image, 0.5, size_hw)
    times = []
    for _ in range(_TIMED_RUNS):
        begin = time.perf_counter()
        _detect(detector, image, 0.5, size_hw)
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def measure_ap(detector: Detector, dataset: DetectionDataset, *, size_hw: tuple[int, int] | None = None) -> float:
    """COCO average precision of a detector, one image at a time because an exported graph may accept only one."""
    dataset = dataset.with_categories(detector.categories)
    channels = getattr(detector, "in_channels", 3)

    def predict(images: list[LoadedImage]) -> list[Detections]:
        return [_detect(detector, one, 0.0, size_hw or getattr(detector, "size_hw", DEFAULT_SIZE_HW)) for one in images]

    return float(np.nan_to_num(evaluate_dataset(predict, dataset, num_channels=channels, progress=False).metrics.ap))
