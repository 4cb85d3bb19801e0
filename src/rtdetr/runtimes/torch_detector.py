"""Detection with PyTorch: images in, `Detections` out, on the CPU or a GPU.

The network is a fused private copy in channels-last layout; the caller's model is never changed. What comes before and
after it is in `base.py`, and the same for every runtime.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from rtdetr._version import __version__
from rtdetr.categories import Categories
from rtdetr.class_lists import GivenClasses
from rtdetr.devices import choose_device, continue_in_fork, inference_dtype, no_autocast, pytorch_defaults
from rtdetr.errors import InputError
from rtdetr.images import size_of
from rtdetr.models import RTDETR, fuse
from rtdetr.preprocessing import Preparation
from rtdetr.runtimes.arguments import multiples_of_32
from rtdetr.runtimes.base import BaseDetector, Batch, Picture, Prepared, RawOutput
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.pillow_memory import pillow_memory
from rtdetr.weights import build_from, name_rows, read_checkpoint
from rtdetr.wording import counted


class TorchDetector(BaseDetector):
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
        fast_resize: resize RGB images with torch, see `prepare`; not those of a model whose images are padded.

    Raises:
        ConfigError: no such device or precision.
        InputError: a size that is not a multiple of 32, a number of categories or thresholds other than the model's
            classes, or an `nms_iou` out of range.
    """

    takes_all_queries = False
    preparation: Preparation | None = None  # how images get to the network's input, if they are not stretched

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
        self.device = choose_device(device)
        self.dtype = inference_dtype(self.device, precision)
        self.where = str(self.device)
        self.num_threads = torch.get_num_threads() if self.device.type == "cpu" else None
        metadata = ExportMetadata(
            model=config.name,
            names=tuple(categories.names),
            category_ids=tuple(categories.ids),
            size_hw=multiples_of_32(size_hw or config.eval_size_hw or (640, 640)),
            dynamic_batch=True,
            dynamic_size=True,
            in_channels=config.in_channels,
            postprocess="raw",
            thresholds=None if thresholds is None else tuple(thresholds),
            precision=str(self.dtype).removeprefix("torch."),
            num_queries=config.decoder.num_queries,
            library_version=__version__,
        )
        super().__init__(metadata, one_label=one_label, nms_iou=nms_iou)
        self.network = fuse(model).to(self.device, self.dtype).to(memory_format=torch.channels_last)

    def prepare(self, picture: Picture, size_hw: tuple[int, int]) -> Prepared:
        """Resize an image as every runtime does, or with `fast_resize` by torch, in less than half of the time.

        Torch rounds its weights to 16 bits, so with `fast_resize` some values are off by 1 of 255, rarely by 2. At
        640x640 none are for photos of 640x480 and 1280x960, mostly below 0.3 % for larger ones, and 4 % for those of
        500x375, which are enlarged; at 128x128 up to a quarter are.
        """
        if self.preparation is not None:
            return self.preparation.apply(picture, size_hw), size_of(picture)
        if not self.fast_resize or not isinstance(picture, Image.Image) or picture.size == (size_hw[1], size_hw[0]):
            return super().prepare(picture, size_hw)
        with pillow_memory(picture) as pixels:
            planes = torch.from_numpy(pixels).permute(2, 0, 1)
            resized = resize(planes, list(size_hw), antialias=True)
            return resized[:3].contiguous().numpy(), picture.size  # torch sorts the bytes faster than NumPy would

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled or copied, it belongs to this process."""
        vars(self).update({**state, "process": os.getpid()})

    def enter_fork(self) -> None:
        """Do without the parent's threads."""
        continue_in_fork(self.device)
        super().enter_fork()

    @torch.inference_mode()
    def infer(self, batch: Batch) -> RawOutput:
        """Run the network, and wait for its result."""
        pixels = torch.from_numpy(batch.pixels).to(self.device)
        images = pixels.to(torch.float32).div_(255).to(memory_format=torch.channels_last)
        with no_autocast():
            logits, boxes = self.network(images.to(self.dtype))[:2]
        boxes_cxcywh = boxes.float().cpu().numpy()
        if self.preparation is not None:
            boxes_cxcywh /= self._shares(batch)
        return RawOutput(logits.float().cpu().numpy(), boxes_cxcywh)

    def checked_size(self, size_hw: Any) -> tuple[int, int]:
        """The size to run at; padded images have one.

        Raises:
            InputError: as for every detector, and another size than the model's where images are padded.
        """
        found = super().checked_size(size_hw)
        if found != self.size_hw and self.preparation is not None and self.preparation.size is not None:
            raise InputError(
                f"expected the size {self.size_hw[0]}x{self.size_hw[1]}, to which the images of this model are padded, "
                f"got {found[0]}x{found[1]}; leave it out"
            )
        return found

    @property
    def description(self) -> str:
        """One line, as of every detector, and how images are resized where that is unusual."""
        usual = super().description
        return usual if self.preparation is None else f"{usual}, images {self.preparation}"

    def _shares(self, batch: Batch) -> np.ndarray:
        """Which part of the input's width and height each image has, for the four numbers of a box (b, 1, 4)."""
        assert self.preparation is not None
        height, width = batch.pixels.shape[-2:]
        contents = [self.preparation.content_hw((h, w), (height, width)) for w, h in batch.sizes_wh.tolist()]
        shares = np.array([[w / width, h / height] * 2 for h, w in contents], dtype=np.float32)
        return shares[:, None]


def load_torch_detector(
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
) -> TorchDetector:
    """Build the detector of a checkpoint; `rtdetr.load` documents the arguments."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    inference_dtype(choose_device(device), precision)  # a wrong word is told before a download
    weights = read_checkpoint(source if isinstance(source, str) else Path(source), model=model, prepares=True)
    if categories is not None:
        weights = name_rows(weights, categories)
    network, classes = build_from(weights)
    detector = TorchDetector(
        network,
        classes,
        device=device,
        precision=precision,
        thresholds=weights.thresholds,
        one_label=one_label,
        nms_iou=nms_iou,
        fast_resize=fast_resize,
    )
    detector.preparation = weights.preparation
    return detector
