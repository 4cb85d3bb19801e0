"""Detection with PyTorch on the CPU or a GPU.

The network is a fused private copy in channels-last layout; the caller's model is never changed. Pre- and
postprocessing are in `base.py` and are the same for every runtime.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rtdetr._version import __version__
from rtdetr.categories import Categories
from rtdetr.devices import choose_device, continue_in_fork, inference_dtype, no_autocast, pytorch_defaults
from rtdetr.errors import InputError
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR, fuse
from rtdetr.native import reuse_memory
from rtdetr.preprocessing import Preparation
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.options import DEFAULTS, LoadOptions, multiples_of_32
from rtdetr.runtimes.outputs import Batch, Output, RawOutput
from rtdetr.runtimes.streams import run_in_threads
from rtdetr.torch_resize import resize_with_torch
from rtdetr.weights import build_from, name_rows, read_checkpoint
from rtdetr.wording import counted


class TorchDetector(BaseDetector):
    """A detector that runs on PyTorch.

    Args:
        model: the network, in train or eval mode; it is copied.
        categories: its classes by label.
        device: "auto" (the first CUDA device, otherwise the CPU) or the name of a device.
        precision: "auto", "float32", "bfloat16" or "float16".
        size_hw: height and width to resize images to; None: the size the model was evaluated at, otherwise 640x640.
        thresholds: score threshold per class, in 0..1, for `threshold="auto"`.
        one_label: return only the best class of each query; published evaluation uses all query-class pairs.
        nms_iou: NMS IoU threshold, applied per class; None: no NMS, like published evaluation.
        fast_resize: resize RGB images with torch, see `TorchStretch`; not supported for models that pad images.

    Raises:
        ConfigError: there is no such device or precision.
        InputError: the size is not a multiple of 32, the number of categories or thresholds differs from the model's
            number of classes, or `nms_iou` is out of range.
    """

    takes_all_queries = False

    @pytorch_defaults()
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
        fast_resize: bool = False,
    ) -> None:
        config = model.config
        if len(categories) != config.num_classes:
            raise InputError(
                f"the model has {counted(config.num_classes, 'class')}, got {counted(len(categories), 'category')}"
            )
        if thresholds is not None and len(thresholds) != len(categories):
            raise InputError(
                f"the model has {counted(len(categories), 'class')}, got {counted(len(thresholds), 'threshold')}"
            )
        self.fast_resize = fast_resize
        self.preparation = TorchStretch() if fast_resize else Preparation()
        self.device = choose_device(device)
        self.dtype = inference_dtype(self.device, precision)
        self.where = str(self.device)
        self.num_threads = torch.get_num_threads() if self.device.type == "cpu" else None
        metadata = ExportMetadata(
            model=config.name,
            names=tuple(categories.names),
            category_ids=tuple(categories.ids),
            size_hw=multiples_of_32(size_hw or config.size_hw),
            dynamic_batch=True,
            dynamic_size=True,
            in_channels=config.in_channels,
            postprocess="raw",
            thresholds=None if thresholds is None else tuple(thresholds),
            precision=str(self.dtype).removeprefix("torch."),
            num_queries=config.decoder.num_queries,
            library_version=__version__,
        )
        super().__init__(metadata, LoadOptions(one_label=one_label, nms_iou=nms_iou))
        if self.device.type == "cpu":
            reuse_memory()
        self.network = fuse(model).to(self.device, self.dtype).to(memory_format=torch.channels_last)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Assign an unpickled or copied detector to this process."""
        vars(self).update({**state, "process": os.getpid()})

    def enter_fork(self) -> None:
        """Continue without the parent's threads, and with one stream."""
        continue_in_fork(self.device)
        self.streams = None
        super().enter_fork()

    @torch.inference_mode()
    def infer(self, batch: Batch) -> RawOutput:
        """Run the network and wait for its result."""
        pixels = torch.from_numpy(batch.pixels).to(self.device)
        images = pixels.to(torch.float32).div_(255).to(memory_format=torch.channels_last)
        with no_autocast():
            logits, boxes = self.network(images.to(self.dtype))[:2]
        return RawOutput(logits.float().cpu().numpy(), boxes.float().cpu().numpy())

    def infer_in_streams(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run the network on many batches, in order and several at once."""
        assert self.streams is not None
        before = torch.get_num_threads()
        start = partial(torch.set_num_threads, self.streams.num_threads)
        try:
            yield from run_in_threads(self.infer, batches, num_threads=self.streams.num_streams, start=start)
        finally:  # it sets the number of the calling thread, but also that of later threads and of MKL
            torch.set_num_threads(before)


class TorchStretch(Preparation):
    """Stretching with torch, in less than half the time.

    Torch rounds its weights to 16 bits, so some values differ by 1/255, rarely by 2/255. At 640x640 these are none for
    images of 640x480 and 1280x960, mostly less than 0.3 % for larger images, and 4 % for images of 500x375, which are
    enlarged; at 128x128 up to a quarter.
    """

    def apply(self, image: LoadedImage, input_hw: tuple[int, int]) -> np.ndarray:
        """Resize an image to an input, uint8 (c, h, w); images other than PIL images in RGB as in `Preparation`."""
        if not isinstance(image, Image.Image) or image.size == (input_hw[1], input_hw[0]):
            return super().apply(image, input_hw)
        resized = resize_with_torch(np.array(image), input_hw)
        return np.ascontiguousarray(resized.transpose(2, 0, 1))


def load_torch_detector(source: str | os.PathLike[str], options: LoadOptions = DEFAULTS) -> TorchDetector:
    """Build the detector of a checkpoint; `rtdetr.load` documents the arguments."""
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    inference_dtype(choose_device(options.device), options.precision)  # raise errors before a download
    weights = read_checkpoint(source if isinstance(source, str) else Path(source), model=options.model, prepares=True)
    if options.categories is not None:
        weights = name_rows(weights, options.categories)
    network, classes = build_from(weights)
    detector = TorchDetector(
        network,
        classes,
        device=options.device,
        precision=options.precision,
        thresholds=weights.thresholds,
        one_label=options.one_label,
        nms_iou=options.nms_iou,
        fast_resize=options.fast_resize,
    )
    detector.use_streams(options.streams)
    if weights.preparation is not None:
        detector.preparation = weights.preparation
    return detector
