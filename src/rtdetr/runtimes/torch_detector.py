"""Detection with PyTorch: images in, `Detections` out, on the CPU or a GPU.

The network is a fused private copy in channels-last layout; the caller's model is never changed. Images are resized by
`rtdetr.preprocessing`, which evaluation uses too, so both see the same pixels.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from rtdetr.categories import Categories
from rtdetr.detections import Detections
from rtdetr.devices import choose_device, inference_dtype
from rtdetr.errors import InputError, WeightsError
from rtdetr.models import RTDETR, fuse, postprocess
from rtdetr.preprocessing import load_image, open_image, resize
from rtdetr.weights import build_from, read_checkpoint

_log = logging.getLogger(__name__)
Prepared = tuple[np.ndarray, tuple[int, int]]  # resized uint8 (h, w, c) and the original width and height


class TorchDetector:
    """A detector that runs on PyTorch.

    Args:
        model: the network, in train or eval mode; it is copied.
        categories: its classes by label.
        device: "auto" (the first CUDA device, else the CPU) or the name of a device.
        precision: "auto", "float32", "bfloat16" or "float16".
        size_hw: height and width images are resized to; None: the size the model was evaluated at, else 640x640.
        thresholds: score threshold of each class, in 0..1, for `threshold="auto"`.
        one_label: take the best class of each query only, where published evaluation takes every pair of a query and a
            class.
        nms_iou: in each class drop detections that overlap a better one by more than this IoU; None: keep all, as
            published evaluation does.

    Raises:
        ConfigError: no such device or precision.
        InputError: a size that is not a multiple of 32, a number of categories or thresholds other than the model's
            classes, or an `nms_iou` out of range.
    """

    def __init__(
        self,
        model: RTDETR,
        categories: Categories,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        size_hw: tuple[int, int] | None = None,
        thresholds: Sequence[float] | None = None,
        one_label: bool = False,
        nms_iou: float | None = None,
    ) -> None:
        if len(categories) != model.config.num_classes:
            raise InputError(f"the model has {model.config.num_classes} classes, got {len(categories)} categories")
        if thresholds is not None and len(thresholds) != len(categories):
            raise InputError(f"the model has {len(categories)} classes, got {len(thresholds)} thresholds")
        if nms_iou is not None and not 0 <= nms_iou <= 1:
            raise InputError(f"the IoU for non-maximum suppression must be in 0..1, got {nms_iou}")
        self.categories = categories
        self.names = tuple(categories.names)
        self.thresholds = None if thresholds is None else tuple(thresholds)
        self.one_label = one_label
        self.nms_iou = nms_iou
        self.device = choose_device(device)
        self.dtype = inference_dtype(self.device, precision)
        self.size_hw = _checked_size(size_hw or model.config.eval_size_hw or (640, 640))
        self.num_channels = model.config.in_channels
        self._name = model.config.name
        self.network = fuse(model).to(self.device, self.dtype).to(memory_format=torch.channels_last)

    @property
    def description(self) -> str:
        """One line: model, classes, precision, device and default size."""
        precision = str(self.dtype).removeprefix("torch.")
        size = f"{self.size_hw[0]}x{self.size_hw[1]}"
        return f"{self._name} ({len(self.names)} classes) in {precision} on {self.device} at {size}"

    def __repr__(self) -> str:
        return f"TorchDetector: {self.description}"

    def __call__(
        self,
        source: Any,
        *,
        threshold: float | Literal["auto"] = 0.5,
        size_hw: tuple[int, int] | None = None,
        max_detections: int = 300,
        batch_size: int = 8,
    ) -> Detections | list[Detections]:
        """Detect objects in one image, or in several, which may differ in size.

        Args:
            source: what `load_image` takes, or a tensor (c, h, w) of uint8 or floats in [0, 1]; several of them in a
                list or tuple, or as a tensor (b, c, h, w) or array (b, h, w, c).
            threshold: only objects with a score above it, 0..1; "auto": above the threshold of their class.
            size_hw: height and width for the network, multiples of 32; None: `self.size_hw`.
            max_detections: at most so many objects an image, the best first.
            batch_size: images that go through the network together; memory grows with it.

        Returns:
            `Detections` for one image; a list of them, in order, for several. Boxes are in pixels of the original image
            and are not clipped to it, as published evaluation wants them; `Detections.clipped()` does that.

        Raises:
            InputError: an image that cannot be read, an option out of range, or "auto" without known thresholds.
            WeightsError: the network gives NaN.
        """
        size_hw = self.size_hw if size_hw is None else _checked_size(size_hw)
        by_class = self._by_class(threshold)
        if max_detections < 1 or batch_size < 1:
            raise InputError(f"max_detections and batch_size must be positive, got {max_detections} and {batch_size}")
        if isinstance(source, Tensor | np.ndarray) and source.ndim == 4:
            source = list(source)
        if not isinstance(source, list | tuple):
            return self._detect([self._prepare(source, size_hw)], by_class, max_detections)[0]
        batches = self._batches(source, size_hw, batch_size)
        return [found for batch in batches for found in self._detect(batch, by_class, max_detections)]

    def _by_class(self, threshold: float | str) -> np.ndarray:
        """The score threshold of each class."""
        if threshold != "auto":
            if isinstance(threshold, str) or not 0 <= threshold <= 1:
                raise InputError(f"threshold must be in 0..1 or 'auto', got {threshold!r}")
            return np.full(len(self.names), threshold, dtype=np.float32)
        if self.thresholds is None:
            raise InputError(
                "threshold 'auto' needs weights with a threshold for each class, which these have not. "
                "Measure and store them with: rtdetr evaluate MODEL DATA --save-thresholds"
            )
        return np.array(self.thresholds)

    def _prepare(self, source: Any, size_hw: tuple[int, int]) -> Prepared:
        """Read an image and resize it."""
        if isinstance(source, Tensor):
            source = _to_array(source)
        if self.num_channels == 3:
            image = open_image(source)
            return resize(image, size_hw), image.size
        pixels = load_image(source, num_channels=self.num_channels)
        return resize(pixels, size_hw), (pixels.shape[1], pixels.shape[0])

    def _batches(self, sources: Sequence[Any], size_hw: tuple[int, int], batch_size: int) -> Iterator[list[Prepared]]:
        """Prepare images in threads, the next batch while the network works on this one."""
        with ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1)) as pool:
            ahead: list[Future[Prepared]] = []
            for start in range(0, len(sources) + batch_size, batch_size):
                batch = ahead
                ahead = [pool.submit(self._prepare, source, size_hw) for source in sources[start : start + batch_size]]
                if batch:
                    yield [_result(future, start - batch_size + i) for i, future in enumerate(batch)]

    @torch.inference_mode()
    def _detect(self, batch: list[Prepared], thresholds: np.ndarray, max_detections: int) -> list[Detections]:
        pixels = torch.from_numpy(np.stack([image for image, _ in batch])).to(self.device)
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)  # uint8 (b, h, w, c) is channels-last already
        output = self.network(images.to(self.dtype))
        sizes_wh = torch.tensor([size_wh for _, size_wh in batch], device=self.device)
        results = postprocess(*output[:2], sizes_wh=sizes_wh, max_detections=max_detections, one_label=self.one_label)
        labels, boxes, scores = (values.cpu().numpy() for values in results)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise WeightsError(
                f"{self.description} gave NaN or infinity: its weights are damaged, or do not fit this precision; "
                "try precision='float32'"
            )
        kept = scores > thresholds[labels]
        if self.nms_iou is not None:
            kept &= np.stack([_survives(*one, iou=self.nms_iou) for one in zip(*results, strict=True)])
        return [
            Detections(b[k], s[k], c[k], self.names, size_wh)
            for b, s, c, k, (_, size_wh) in zip(boxes, scores, labels, kept, batch, strict=True)
        ]


def load_torch_detector(
    source: str | os.PathLike[str],
    *,
    device: str = "auto",
    model: str | None = None,
    precision: str = "auto",
    one_label: bool = False,
    nms_iou: float | None = None,
) -> TorchDetector:
    """Build the detector of a checkpoint; `rtdetr.load` documents the arguments."""
    inference_dtype(choose_device(device), precision)  # a wrong word is told before a download
    weights = read_checkpoint(source if isinstance(source, str) else Path(source), model=model)
    network, categories = build_from(weights)
    detector = TorchDetector(
        network,
        categories,
        device=device,
        precision=precision,
        thresholds=weights.thresholds,
        one_label=one_label,
        nms_iou=nms_iou,
    )
    _log.info("detecting with %s", detector.description)
    return detector


def _survives(labels: Tensor, boxes: Tensor, scores: Tensor, *, iou: float) -> np.ndarray:
    """Which detections of one image non-maximum suppression keeps, bool (n,)."""
    kept = np.zeros(len(scores), dtype=bool)
    kept[batched_nms(boxes.float(), scores.float(), labels, iou).cpu().numpy()] = True
    return kept


def _checked_size(size_hw: Any) -> tuple[int, int]:
    if not isinstance(size_hw, Sequence) or [type(side) for side in size_hw] != [int, int] or min(size_hw) < 1:
        raise InputError(f"expected the size as (height, width) in pixels, like (640, 640), got {size_hw!r}")
    height, width = size_hw
    if height % 32 or width % 32:
        lower, upper = ([max(1, (side + more) // 32) * 32 for side in size_hw] for more in (0, 31))
        raise InputError(
            f"height and width must be multiples of 32, got {height}x{width}; "
            f"the nearest are {lower[0]}x{lower[1]} and {upper[0]}x{upper[1]}"
        )
    return height, width


def _result(prepared: Future[Prepared], position: int) -> Prepared:
    try:
        return prepared.result()
    except InputError as error:
        raise InputError(f"image {position} of the list: {error}") from None


def _to_array(image: Tensor) -> np.ndarray:
    """A tensor (c, h, w) as an array (h, w, c) that `load_image` takes."""
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(
            "expected an image tensor (channels, height, width) of uint8 or floats in [0, 1], "
            f"got {image.dtype} {tuple(image.shape)}"
        )
    image = image.detach().permute(1, 2, 0).cpu()
    return (image.float() if image.is_floating_point() else image).numpy()
