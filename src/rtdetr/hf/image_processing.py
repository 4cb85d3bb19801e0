"""`RTDetrImageProcessor`: convert images and COCO annotations to network input, and its output to boxes in pixels.

It has the interface, defaults and results (within 1/255 per pixel) of the transformers processor with this name, and
reads and resizes images with the functions that this library uses everywhere. Both use the same
`preprocessor_config.json`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs

from rtdetr.boxes import cxcywh_to_xyxy
from rtdetr.errors import InputError, nearest
from rtdetr.files import write_text
from rtdetr.hf.coco_labels import Labels, SizeHW, make_labels
from rtdetr.hf.image_inputs import Size, as_list, image_array, padded_size, resize_image
from rtdetr.models.postprocess import best_pairs
from rtdetr.preprocessing import METHODS, resized_hw
from rtdetr.wording import counted

# accepted for compatibility with code written for transformers; without effect
_IGNORED = (
    *("crop_size", "data_format", "default_to_square", "disable_grouping", "do_center_crop", "do_convert_rgb"),
    *("image_seq_length", "masks_path", "return_segmentation_masks"),
)
_NEEDED = {
    "do_resize": ("size", "resample"),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}
_CALL_ONLY = ("return_tensors", "device", "input_data_format")


class RTDetrImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of this processor in addition to those of every image processor."""

    format: str
    do_convert_annotations: bool


class _Settings(NamedTuple):
    """Preprocessing settings of one call; the defaults are the published preprocessing.

    size: see `resized_hw`. resample: PIL resampling method. rescale_factor: factor for all pixels. image_mean,
    image_std: of the rescaled pixels, one value per channel. pad_size: height and width; None: the largest height and
    width in the batch. format: format of the annotations.
    """

    do_resize: bool = True
    size: Size = {"height": 640, "width": 640}  # noqa: RUF012 (never changed)
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = False
    image_mean: Sequence[float] = (0.485, 0.456, 0.406)
    image_std: Sequence[float] = (0.229, 0.224, 0.225)
    do_pad: bool = False
    pad_size: Size | None = None
    do_convert_annotations: bool = True
    format: str = "coco_detection"


class RTDetrImageProcessor(BaseImageProcessor):
    """Prepare images for RT-DETR and convert its outputs to detections; a drop-in for the transformers class.

    Every setting can be given here, or in a call for that call only. Settings and their defaults: `do_resize` True,
    `size` {"height": 640, "width": 640}, `resample` 2 (bilinear, with antialiasing), `do_rescale` True,
    `rescale_factor` 1/255, `do_normalize` False, `image_mean` and `image_std` (ImageNet), `do_pad` False, `pad_size`
    None, `do_convert_annotations` True, `format` "coco_detection". None as a `do_` setting means False, as in
    transformers.

    Differs: gray, RGBA, palette and 16-bit images are converted to RGB, EXIF rotation is applied, and
    `post_process_object_detection` undoes padding.
    """

    valid_kwargs = RTDetrImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]  # noqa: RUF012 (as in transformers)

    def __init__(self, **settings: Any) -> None:
        own = {name: settings.pop(name, default) for name, default in _Settings()._asdict().items()}
        super().__init__(**settings)
        for name, value in own.items():
            setattr(self, name, _standard(name, value))

    def __call__(self, images: Any, annotations: Any = None, **settings: Any) -> BatchFeature:
        """The same as `preprocess`."""
        return self.preprocess(images, annotations, **settings)

    def preprocess(self, images: Any, annotations: Any = None, **settings: Any) -> BatchFeature:
        """Prepare images, and their annotations for training.

        Args:
            images: one image or a list: paths, URLs, PIL images, arrays or tensors; see `image_array`.
            annotations: per image {"image_id": int, "annotations": [...]} as in COCO files, with category ids from 0; a
                single dictionary for one image.
            settings: settings of the class for this call, and `return_tensors` ("pt" or "np"; None returns tensors),
                `device` for the results, and `input_data_format` ("channels_first" or "channels_last") of arrays.

        Returns:
            pixel_values: float32 (b, 3, h, w) in 0..1; a list if sizes differ and `return_tensors` is None.
            pixel_mask: with `do_pad`, int64 (b, h, w), 1 for pixels and 0 for padding at the bottom and the right.
            labels: with annotations, a list with the fields of `Labels`.

        Raises:
            InputError: an image, annotation or setting is not valid, or sizes cannot be batched.
        """
        used = self._settings(settings)
        order = settings.get("input_data_format")
        order = getattr(order, "value", order)
        if order not in (None, "channels_first", "channels_last"):
            raise InputError(f"expected 'channels_first' or 'channels_last' as input_data_format, got {order!r}")
        channels_first = None if order is None else order == "channels_first"
        arrays = [image_array(image, channels_first=channels_first) for image in as_list(images)]
        resized = [resized_hw(_hw(array), dict(used.size)) if used.do_resize else _hw(array) for array in arrays]
        padded = [padded_size(resized, used.pad_size)] * len(arrays) if used.do_pad else resized
        same = len(set(padded)) == 1
        return_tensors = _return_tensors(settings.get("return_tensors"))
        if return_tensors is not None and not same:
            raise InputError(
                f"images of {counted(len(set(padded)), 'size')} cannot be stacked; pass do_pad=True, or a size with "
                "height and width"
            )
        values = [
            torch.from_numpy(_pixels(array, inner, outer, used))
            for array, inner, outer in zip(arrays, resized, padded, strict=True)
        ]
        data: dict[str, Any] = {"pixel_values": torch.stack(values) if same else values}
        if used.do_pad:
            data["pixel_mask"] = torch.stack([_mask(inner, padded[0]) for inner in resized])
        if annotations is not None:
            labels = _labels(annotations, arrays, resized, padded, used)
            data["labels"] = [BatchFeature(label._asdict()) for label in labels]
        batch = BatchFeature(data)
        if return_tensors == "np":
            return _as_arrays(batch)
        if settings.get("device") is not None:
            batch.to(settings["device"])  # in place
        return batch

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Tensor | Sequence[Any] | None = None,
        use_focal_loss: bool = True,
    ) -> list[dict[str, Tensor]]:
        """Convert model outputs to the detections of each image, best first.

        Padding is undone: given a `pixel_mask`, `RTDetrV2ForObjectDetection` returns the share of the input that is not
        padding as `content_share_hw`. Outputs without that field are not corrected.

        Args:
            outputs: with `logits` (b, q, k) and `pred_boxes` (b, q, 4), normalized cxcywh.
            threshold: detections with a higher score are kept.
            target_sizes: height and width of each upright image, a tensor (b, 2) or a list of pairs; None leaves boxes
                in 0..1.
            use_focal_loss: True: sigmoid scores, and a query can yield several classes; False: softmax scores over the
                classes, and a query yields its best class.

        Returns:
            Per image `scores` (n,), `labels` (n,) and `boxes` (n, 4), xyxy in pixels, not clipped to the image.

        Differs: with `use_focal_loss=False`, transformers computes the softmax over the images of the batch and drops
        the last class as if it were a background class, which RT-DETR does not have. Here it is over all classes.

        Raises:
            InputError: the target sizes have another form or do not match the number of images.
        """
        logits, boxes = outputs.logits, cxcywh_to_xyxy(outputs.pred_boxes)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits, boxes = logits.float(), boxes.float()
        share_hw = getattr(outputs, "content_share_hw", None)
        if share_hw is not None:
            boxes = boxes / share_hw.to(boxes).flip(1).repeat(1, 2)[:, None]
        if target_sizes is not None:
            boxes = boxes * _sizes_hw(target_sizes, boxes).flip(1).repeat(1, 2)[:, None]
        if use_focal_loss:
            labels, queries, scores = best_pairs(logits.sigmoid(), logits.shape[1])
            boxes = boxes.gather(1, queries[:, :, None].expand(-1, -1, 4))
        else:
            scores, labels = logits.softmax(dim=2).max(dim=2)
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            labels, boxes = labels.gather(1, order), boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        return [
            {"scores": score[kept], "labels": label[kept], "boxes": box[kept]}
            for score, label, box, kept in zip(scores, labels, boxes, scores > threshold, strict=True)
        ]

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings as JSON atomically; `save_pretrained` calls this."""
        write_text(Path(json_file_path), self.to_json_string(), error=InputError)

    def _settings(self, changes: Mapping[str, Any]) -> _Settings:
        """Return the settings of the processor, overridden by those of one call."""
        known = (*_Settings._fields, *_CALL_ONLY, *_IGNORED)
        for name in changes:
            if name not in known:
                raise InputError(
                    f"unknown setting {name!r}.{nearest(name, known)} Known: {', '.join(_Settings._fields)}."
                )
        own = {name: getattr(self, name) for name in _Settings._fields}
        settings = _Settings(**own | {name: _standard(name, changes[name]) for name in own if name in changes})
        for switch, names in _NEEDED.items():
            for name in names:
                if getattr(settings, switch) and getattr(settings, name) is None:
                    raise InputError(
                        f"expected a value for {name}, which {switch} needs, got None; omit it for the default"
                    )
        if str(getattr(settings.format, "value", settings.format)) != "coco_detection":
            raise InputError(f"expected annotations in the format coco_detection, got {settings.format!r}")
        return settings


RTDetrImageProcessorFast = RTDetrImageProcessor  # name in transformers 4


def _return_tensors(value: Any) -> str | None:
    kind = getattr(value, "value", value)
    if kind not in (None, "pt", "np"):
        raise InputError(f"expected 'pt', 'np' or None as return_tensors, got {kind!r}")
    return kind


def _sizes_hw(target_sizes: Any, boxes: Tensor) -> Tensor:
    """Return height and width of each image, (b, 2), with the type and device of the boxes."""
    sizes = torch.stack([torch.as_tensor(size) for size in target_sizes]) if len(target_sizes) else torch.empty(0)
    if sizes.shape != (len(boxes), 2):
        raise InputError(
            f"expected a height and a width for each of {counted(len(boxes), 'image')}, got {tuple(sizes.shape)}"
        )
    return sizes.to(boxes)


def _standard(name: str, value: Any) -> Any:
    """Validate a setting and convert it to the form that is stored and saved."""
    if value is None:
        return False if name.startswith("do_") else None
    if name in ("size", "pad_size"):
        if isinstance(value, SizeDict):
            return value
        try:
            return SizeDict(**get_size_dict(value, param_name=name))
        except (ValueError, TypeError) as error:
            raise InputError(str(error)) from None
    if name in ("image_mean", "image_std"):
        values = list(value) if isinstance(value, Sequence) else [value]
        if len(values) not in (1, 3) or not all(_is_number(x) and (x > 0 or name == "image_mean") for x in values):
            kind = "numbers above 0" if name == "image_std" else "numbers"
            raise InputError(f"expected 3 {kind} as {name}, got {value!r}")
        return values if len(values) == 3 else value
    if name == "resample":  # PIL number, torchvision mode or its name
        word = str(getattr(value, "value", value)).lower()
        value = METHODS.index(word) if word in METHODS else value
    wrong = {
        "resample": "a PIL resampling method, 0 to 5," if value not in range(6) else None,
        "rescale_factor": "a number above 0" if not (_is_number(value) and value > 0) else None,
    }.get(name, "True or False" if name.startswith("do_") and not isinstance(value, bool) else None)
    if wrong:
        raise InputError(f"expected {wrong} as {name}, got {value!r}")
    return int(value) if name == "resample" else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _hw(array: np.ndarray) -> SizeHW:
    return array.shape[0], array.shape[1]


def _as_arrays(batch: BatchFeature) -> BatchFeature:
    labels = {"labels": [_as_arrays(label) for label in batch["labels"]]} if "labels" in batch else {}
    return BatchFeature({name: value.numpy() for name, value in batch.items() if name != "labels"} | labels)


def _pixels(array: np.ndarray, resized_hw: SizeHW, padded_hw: SizeHW, used: _Settings) -> np.ndarray:
    """Return the network input of one image, (3, h, w); uint8 if it is neither rescaled nor normalized."""
    pixels = resize_image(array, resized_hw, resample=used.resample)
    changed = used.do_rescale or used.do_normalize
    values = np.zeros((3, *padded_hw), dtype=np.float32 if changed else pixels.dtype)
    inner = values[:, : resized_hw[0], : resized_hw[1]]
    inner[...] = pixels
    if used.do_rescale:
        inner /= np.float32(1 / used.rescale_factor)  # divide by 255, as everywhere in this library: 1/255 is not exact
    if used.do_normalize:
        inner -= np.asarray(used.image_mean, dtype=np.float32).reshape(-1, 1, 1)
        inner /= np.asarray(used.image_std, dtype=np.float32).reshape(-1, 1, 1)
    return values


def _mask(resized_hw: SizeHW, padded_hw: SizeHW) -> Tensor:
    mask = torch.zeros(padded_hw, dtype=torch.int64)
    mask[: resized_hw[0], : resized_hw[1]] = 1
    return mask


def _labels(
    annotations: Any, arrays: list[np.ndarray], resized: list[SizeHW], padded: list[SizeHW], used: _Settings
) -> list[Labels]:
    if isinstance(annotations, Mapping):
        annotations = [annotations]
    if not isinstance(annotations, list | tuple) or len(annotations) != len(arrays):
        count = len(annotations) if isinstance(annotations, list | tuple) else type(annotations).__name__
        raise InputError(f"expected one annotation for each of {counted(len(arrays), 'image')}, got {count}")
    return [
        make_labels(
            annotation, image_hw=_hw(array), resized_hw=inner, padded_hw=outer, normalize=used.do_convert_annotations
        )
        for annotation, array, inner, outer in zip(annotations, arrays, resized, padded, strict=True)
    ]
