"""Is an exported model still the model? `verify` compares its detections with those of PyTorch in float32.

The counting is in `agreement.py`; where the two part is found by `layers.py`.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from rtdetr.categories import Categories
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.detections import Detections, Detector
from rtdetr.devices import DTYPES
from rtdetr.errors import ExportError, InputError, WeightsError
from rtdetr.evaluation import evaluate_dataset
from rtdetr.export.agreement import Agreement, Tolerance, class_difference, compare
from rtdetr.export.layers import first_diverging, largest_error, shows_stages, stage_errors
from rtdetr.export.pictures import built_in_pictures
from rtdetr.files import beside
from rtdetr.images import Picture, read_picture
from rtdetr.models import RTDETR
from rtdetr.preprocessing import resize
from rtdetr.runtimes import load
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.options import LoadOptions
from rtdetr.runtimes.torch_detector import TorchDetector, load_torch_detector

_HALF = Tolerance(matched=0.98, iou=0.95, score=0.02, ap_drop=0.005)
TOLERANCES = {"fp32": Tolerance(matched=1.0, iou=0.999, score=1e-3, ap_drop=0.001), "fp16": _HALF, "bf16": _HALF}
RESIZED = Tolerance(matched=0.95, iou=0.95, score=0.05, ap_drop=0.005)
"""What is allowed where the graph resizes: some of its pixels differ from the library's own by 1 of 255."""
THRESHOLD = 0.3
NUM_OF_DATASET = 8  # its pictures that are compared
_TIMED_RUNS = 5
_TOGETHER = 4  # pictures that are run in one batch, where it is free
ROUNDING = 5e-5  # of AP, between two engines in float32
_STRONGEST = 5  # detections a picture that are compared where none is above the threshold


def int8_tolerance(max_drop: float) -> Tolerance:
    """Return what INT8 is held to: the AP on a dataset; agreement on pictures is only reported."""
    return Tolerance(matched=0.0, iou=0.9, score=0.1, ap_drop=max_drop)


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify`.

    Attributes:
        model: what was verified.
        reference: what it was compared with.
        num_images: pictures compared.
        threshold: detections above this score were compared.
        is_weak: nothing was above the threshold asked for, so that it was lowered to the strongest detections.
        tolerance: what was allowed.
        agreement: what the comparison found.
        size_bytes: of the file with its weights; None: a detector was given.
        num_nodes: operations in the graph; None: the format does not show them.
        latency_ms: median time from one picture to its detections; None: it does not run.
        reference_latency_ms: the same of the reference.
        failure: why the model does not run, or that it computes no numbers; None: it runs.
        class_difference: the first class that the model names otherwise than the reference; None: none.
        stage_errors: relative error of each stage of the network, where it was looked at and the format shows it.
        diverging: the first stage that differs too much; None: none, or not looked at.
        ap: COCO average precision on the dataset given, 0..1.
        reference_ap: the same of the reference.
    """

    model: str
    reference: str
    num_images: int
    threshold: float
    tolerance: Tolerance
    agreement: Agreement
    size_bytes: int | None
    num_nodes: int | None
    latency_ms: float | None
    reference_latency_ms: float
    is_weak: bool = False
    failure: str | None = None
    class_difference: str | None = None
    stage_errors: dict[str, float] = field(default_factory=dict)
    diverging: str | None = None
    ap: float | None = None
    reference_ap: float | None = None

    @property
    def ap_drop(self) -> float | None:
        """AP of the reference less AP of the model; negative where the model is better."""
        return None if self.ap is None or self.reference_ap is None else self.reference_ap - self.ap

    @property
    def reason(self) -> str | None:
        """Why the model is refused, on one line; None: it passed."""
        if self.class_difference:
            return self.class_difference
        where = f"; the first stage that differs is {self.diverging}" if self.diverging else ""
        if self.failure:
            return f"{self.failure}{where}"
        if self.agreement.matched_share < self.tolerance.matched:
            if self.stage_errors and not self.diverging:
                where = "; no stage of the network differs on the first picture: look at what is before and behind it"
            return (
                f"{self.agreement.matched_share:.1%} of the detections match with IoU >= {self.tolerance.iou} and "
                f"scores within {self.tolerance.score}, expected at least {self.tolerance.matched:.0%}{where}"
                f"{f'. {self._weakness}' if self.is_weak else ''}"
            )
        if self.is_weak and self.diverging:
            return f"stage {self.diverging} of the network differs. {self._weakness}"
        if self.ap_drop is not None and self.ap_drop > self.tolerance.ap_drop + ROUNDING:
            return f"AP falls by {self.ap_drop:.4f}, allowed are {self.tolerance.ap_drop}"
        return None

    @property
    def passed(self) -> bool:
        """Whether the model is within the tolerance."""
        return self.reason is None

    @property
    def note(self) -> str | None:
        """What the report does not show, on one line."""
        if self.is_weak:
            return self._weakness
        if not self.agreement.is_conclusive:
            return "the model detects nothing at all in these pictures: give pictures with objects that it knows"
        if self.tolerance.matched == 0 and self.ap is None:
            return "INT8 is judged by AP: give a dataset"
        if self.agreement.matched_share < self.tolerance.matched and not self.stage_errors:
            return "this format shows no values inside the network, so the stage that differs is not known"
        return None

    @property
    def _weakness(self) -> str:
        judged = f"its detections above {self.threshold:.2g} were compared"
        if self.tolerance.matched == 0:
            judged = "only the stages of the network were judged"
        return (
            f"the model detects nothing in these pictures with confidence, so {judged}: give pictures with objects "
            "that it knows"
        )

    def table(self) -> Table:
        """The report for a terminal, to be printed with rich."""
        found, allowed = self.agreement, self.tolerance
        table = Table("", "found", "allowed", title=f"{self.model}\nagainst {self.reference}", title_justify="left")
        table.add_row("pictures", str(self.num_images), "")
        table.add_row(f"detections above {self.threshold:.2g}", f"{found.num_found} (of {found.num_reference})", "")
        if found.is_conclusive:
            judged = allowed.matched > 0  # INT8 is judged by AP
            table.add_row("matched", f"{found.matched_share:.2%}", f">= {allowed.matched:.0%}" if judged else "")
            table.add_row("missed, extra", f"{found.missed}, {found.extra}", "")
            table.add_row("IoU of pairs, lowest", f"{found.lowest_iou:.5f}", f">= {allowed.iou}" if judged else "")
            table.add_row("IoU of pairs, mean", f"{found.mean_iou:.5f}", "")
            table.add_row(
                "score difference, largest",
                f"{found.largest_score_difference:.5f}",
                f"<= {allowed.score}" if judged else "",
            )
        if self.stage_errors:
            worst = max(self.stage_errors.values())
            table.add_row("stages compared", str(len(self.stage_errors)), "")
            table.add_row("error of a stage, largest", f"{worst:.2g}", f"<= {largest_error(allowed):g}")
        if self.ap is not None:
            table.add_row("AP", f"{self.ap:.4f} (of {self.reference_ap:.4f})", f"drop <= {allowed.ap_drop}")
        if self.diverging:
            table.add_row("first stage that differs", self.diverging, "")
        table.add_row("size", "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.1f} MB", "")
        if self.num_nodes is not None:
            table.add_row("operations", str(self.num_nodes), "")
        own = "-" if self.latency_ms is None else f"{self.latency_ms:.1f} ms"
        speed = f"{own} (PyTorch float32 {self.reference_latency_ms:.1f} ms)"
        table.add_row("one picture", speed, "")
        table.add_row("result", "passed" if self.passed else "refused", "")
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`."""
        shares = {"matched_share": self.agreement.matched_share, "ap_drop": self.ap_drop}
        return {**asdict(self), **shares, "passed": self.passed, "reason": self.reason, "note": self.note}


def verify(
    exported: str | os.PathLike[str] | Detector,
    reference: str | os.PathLike[str] | RTDETR | TorchDetector,
    *,
    images: Sequence[Any] | None = None,
    tolerance: Tolerance | None = None,
    threshold: float = THRESHOLD,
    data: str | os.PathLike[str] | DetectionDataset | None = None,
) -> VerifyReport:
    """Compare an exported model with the PyTorch model it was made from, on the CPU in float32.

    Args:
        exported: a file that `rtdetr.load` takes, or a loaded detector.
        reference: the checkpoint, network or float32 detector.
        images: pictures with objects that the model knows, as a detector takes them; None: some of `data`, else the
            built-in ones.
        tolerance: what is allowed; None: that of the file's precision, float16, bfloat16 or else float32.
        threshold: only detections above this score are compared, 0..1.
        data: a dataset, to compare the average precision too; its split is `val`.

    Raises:
        InputError: no images, or one that cannot be read.
        DatasetError: the dataset is missing or broken, or has other classes.
        WeightsError: a file that is damaged or not RT-DETR's.
        ExportError: the reference gives NaN or infinity.
    """
    detector = _load(exported) if isinstance(exported, str | os.PathLike) else exported
    original = _reference(reference, detector.categories)
    tolerance = tolerance or _own_tolerance(detector)
    dataset = data if data is None or isinstance(data, DetectionDataset) else open_dataset(data, split="val")
    pictures = _pictures(images, dataset, original.in_channels)
    size_hw: tuple[int, int] = getattr(detector, "size_hw", original.size_hw)
    path = Path(exported) if isinstance(exported, str | os.PathLike) else None
    both, failure = _detections(detector, original, pictures, max(0.0, threshold - tolerance.score), size_hw)
    agreement = compare(*both, threshold=threshold, tolerance=tolerance)
    is_weak = False
    if not failure and not agreement.is_conclusive:
        both, failure = _detections(detector, original, pictures, 0.0, size_hw)
        scores = np.sort(np.concatenate([one.scores for one in both[0]]))[::-1]
        if is_weak := len(scores) > 0:
            count = _STRONGEST * len(both[0])
            threshold = float(scores[count]) if len(scores) > count else 0.0
            if tolerance.score > TOLERANCES["fp32"].score and path and shows_stages(path):
                tolerance = replace(tolerance, matched=0.0)  # rounding chooses among such queries: see the stages
            agreement = compare(*both, threshold=threshold, tolerance=tolerance)
    errors: dict[str, float] = {}
    if path and (failure or is_weak or agreement.matched_share < tolerance.matched):
        with contextlib.suppress(*([Exception] if failure else [])):  # whatever an engine raises that cannot run it
            picture = resize(pictures[0], size_hw)
            errors = stage_errors(path, original.network, picture, of_most_queries=is_weak) or {}
    other_class = class_difference(original.categories, detector.categories)
    aps = (None, None)
    if dataset is not None and other_class is None and not failure:
        aps = (measure_ap(detector, dataset, size_hw=size_hw), measure_ap(original, dataset, size_hw=size_hw))
    return VerifyReport(
        model=path.name if path else str(getattr(detector, "description", detector)),
        reference=original.description,
        num_images=len(pictures),
        threshold=threshold,
        tolerance=tolerance,
        agreement=agreement,
        size_bytes=size_in_bytes(path) if path else None,
        num_nodes=count_nodes(path) if path else None,
        latency_ms=None if failure else _latency_ms(detector, pictures[0], size_hw),
        reference_latency_ms=_latency_ms(original, pictures[0], size_hw),
        is_weak=is_weak,
        failure=failure,
        class_difference=other_class,
        stage_errors=errors,
        diverging=first_diverging(errors, tolerance),
        ap=aps[0],
        reference_ap=aps[1],
    )


def _pictures(images: Sequence[Any] | None, dataset: DetectionDataset | None, num_channels: int) -> list[Picture]:
    """The pictures given, else some of the dataset, else those that come with the library."""
    if images is None and dataset is not None:
        chosen = np.linspace(0, len(dataset) - 1, min(NUM_OF_DATASET, len(dataset))).round().astype(int)
        return [dataset.picture(index, num_channels=num_channels) for index in chosen.tolist()]
    if images is None:
        return built_in_pictures(num_channels)
    pictures = [read_picture(image, num_channels=num_channels) for image in images]
    if not pictures:
        raise InputError("expected at least one image to verify the model on, got none")
    return pictures


def _detections(
    detector: Detector,
    original: TorchDetector,
    pictures: Sequence[Picture],
    lowest: float,
    size_hw: tuple[int, int],
) -> tuple[tuple[list[Detections], list[Detections]], str | None]:
    """What the original and the detector find, in pixels of `size_hw`, and why the detector failed if it did.

    Where the batch is free, some go through the detector once more, together; where the size is, one in another.
    Pictures are resized here, unless a graph does it, so that only the network is compared.
    """
    small = [_resized(one, size_hw) for one in pictures]
    try:
        expected = [_detect(original, one, lowest, size_hw) for one in small]
    except WeightsError as error:
        raise ExportError(f"nothing to compare with, as the reference gives no finite numbers: {error}") from None
    try:
        if isinstance(detector, BaseDetector) and detector.metadata.preprocess == "in_graph":
            return (expected, [_scaled(_detect(detector, one, lowest, size_hw), size_hw) for one in pictures]), None
        found = [_detect(detector, one, lowest, size_hw) for one in small]
        if not isinstance(detector, BaseDetector) or detector.has_ranges:
            return (expected, found), None
        if detector.metadata.dynamic_batch and len(small) > 1:
            expected += expected[:_TOGETHER]
            found += _detect_together(detector, small[:_TOGETHER], lowest, size_hw)
        if detector.metadata.dynamic_size:
            other = (size_hw[0] + 32, size_hw[1] + 64)
            expected.append(_detect(original, _resized(pictures[0], other), lowest, other))
            found.append(_detect(detector, _resized(pictures[0], other), lowest, other))
        return (expected, found), None
    except WeightsError as error:  # the engine refuses the graph, or computes NaN
        return (expected, [one.above(1.0) for one in expected]), str(error)


def size_in_bytes(path: Path) -> int:
    """Size of a model file with the files of weights beside it."""
    weights = beside(path, ".bin") if path.suffix.lower() == ".xml" else path.with_name(path.name + ".data")
    return sum(file.stat().st_size for file in (path, weights) if file.is_file())


def count_nodes(path: Path) -> int | None:
    """Operations in the graph of an ONNX or OpenVINO file; None for other formats."""
    if path.suffix.lower() == ".onnx":
        import onnx

        return len(onnx.load(path, load_external_data=False).graph.node)
    if path.suffix.lower() == ".xml":
        from rtdetr.export.openvino import count_operations
        from rtdetr.runtimes.openvino_core import read_ir

        return count_operations(read_ir(path))
    return None


def _load(path: str | os.PathLike[str]) -> Detector:
    """The detector of a file, in the precision that the file says, where the device would choose another."""
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


def _detect(detector: Detector, picture: Picture, threshold: float, size_hw: tuple[int, int]) -> Detections:
    found = detector(picture, threshold=threshold, size_hw=size_hw)
    assert isinstance(found, Detections)  # one picture was given
    return found


def _detect_together(
    detector: BaseDetector, pictures: Sequence[Picture], threshold: float, size_hw: tuple[int, int]
) -> list[Detections]:
    """In one batch, also where the detector itself would run them one by one."""
    batch = detector.batch([detector.prepare(one, size_hw) for one in pictures])
    return detector.finish(detector.infer(batch), batch.sizes_wh, thresholds=detector.by_class(threshold))


def _own_tolerance(detector: Detector) -> Tolerance:
    """What the precision of a file explains; that of INT8 is not known here."""
    precision = getattr(getattr(detector, "metadata", None), "precision", "float32")
    return _HALF if precision in ("float16", "bfloat16") else TOLERANCES["fp32"]


def _resized(picture: Picture, size_hw: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(resize(picture, size_hw).transpose(1, 2, 0))


def _scaled(found: Detections, size_hw: tuple[int, int]) -> Detections:
    """The same objects in a picture of another size, which leaves each IoU as it is."""
    height, width = size_hw
    ratio = np.array([width / found.image_size_wh[0], height / found.image_size_wh[1]] * 2)
    return replace(found, boxes_xyxy=found.boxes_xyxy * ratio, image_size_wh=(width, height))


def _latency_ms(detector: Detector, picture: Picture, size_hw: tuple[int, int]) -> float:
    """Median time of one picture; the runs before have warmed the detector up."""
    times = []
    for _ in range(_TIMED_RUNS):
        begin = time.perf_counter()
        _detect(detector, picture, 0.5, size_hw)
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def measure_ap(detector: Detector, dataset: DetectionDataset, *, size_hw: tuple[int, int] | None = None) -> float:
    """COCO average precision of a detector, pictures one by one because an exported graph may take no more."""
    dataset = dataset.with_categories(detector.categories)
    channels = getattr(detector, "in_channels", 3)

    def predict(pictures: list[Picture]) -> list[Detections]:
        return [_detect(detector, one, 0.0, size_hw or getattr(detector, "size_hw", (640, 640))) for one in pictures]

    return float(np.nan_to_num(evaluate_dataset(predict, dataset, num_channels=channels, progress=False).metrics.ap))
