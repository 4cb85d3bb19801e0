"""Read and write preprocessor_config.json of transformers' RTDetrImageProcessor.

This library stretches every image to one size with bilinear resampling and divides it by 255; the network then
subtracts `pixel_mean` and divides by `pixel_std`. So every rescaling, normalization and valid input size of a file is
supported. Padding, sizes that keep the aspect ratio, and other resampling become a `Preparation`, which only the
detectors of `rtdetr.load` support; other settings are rejected by name. No setting is ignored silently: those that do
not change pixels are listed here, and unknown keys cause a warning.
"""

import logging
import math
from typing import Any, NamedTuple

from rtdetr.config import DEFAULT_SIZE_HW, STRIDE, ModelConfig, SizeHW, size_problem
from rtdetr.errors import WeightsError, nearest
from rtdetr.preprocessing import METHODS, Preparation
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
PREPROCESSOR = "preprocessor_config.json"
_PROCESSORS = ("RTDetrImageProcessor", "RTDetrImageProcessorFast", "RTDetrImageProcessorPil")
_DEFAULTS: dict[str, Any] = {  # defaults of transformers
    "do_resize": True,
    "size": {"height": 640, "width": 640},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_pad": False,
    "pad_size": None,
}
_NAMES = ("image_processor_type", "feature_extractor_type")
# settings of RTDetrImageProcessor that do not change pixels, and bookkeeping fields
_WITHOUT_EFFECT = (
    *("format", "do_convert_annotations", "masks_path", "return_segmentation_masks", "crop_size", "do_center_crop"),
    *(
        "data_format",
        "input_data_format",
        "default_to_square",
        "disable_grouping",
        "do_convert_rgb",
        "image_seq_length",
    ),
    *("device", "return_tensors", "processor_class", "_processor_class", "_valid_processor_keys", "_name_or_path"),
    *("transformers_version", "use_fast", "backend"),
)
# settings of other image processors in transformers
_OF_OTHERS = (
    *("do_reduce_labels", "ignore_index", "num_labels", "mask_size", "mask_pad_size", "do_split_image", "size_divisor"),
    *("crop_pct", "do_flip_channel_order", "do_grayscale", "do_thumbnail", "do_align_long_axis", "rescale_offset"),
    *("ensure_multiple_of", "keep_aspect_ratio", "resize_mode", "include_top", "min_pixels", "max_pixels"),
    *("patch_size", "temporal_patch_size", "merge_size", "min_patches", "max_patches", "crop_to_patches"),
    *("do_image_splitting", "max_image_size", "do_pan_and_scan", "apply_ocr", "ocr_lang", "tesseract_config"),
)
_KEEP_RATIO = ({"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
_LARGEST = 8192  # largest input height or width
_NUMBERS = (1e-30, 1e30)  # the rest of the float32 range on either side is for the pixels
_SAME_FACTOR = 1e-6  # relative; accepts 1/255 in float32
_ELSEWHERE = "The image processors of rtdetr.hf and transformers support it"


class Preprocessing(NamedTuple):
    """Preprocessing of images for a network whose input is in [0, 1].

    size_hw: input height and width; None: not specified.
    mean, std: mean and standard deviation per channel; None: 0 and 1.
    preparation: how images are resized and padded, if not stretched to `size_hw` with bilinear resampling.
    """

    size_hw: SizeHW | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preparation: Preparation | None = None


def write_preprocessor(config: ModelConfig) -> dict[str, Any]:
    """Return the content of preprocessor_config.json: stretch to the model's size, divide by 255."""
    height, width = config.size_hw
    return {
        **{key: value for key, value in _DEFAULTS.items() if key != "pad_size"},
        "do_convert_annotations": True,
        "format": "coco_detection",
        "image_processor_type": _PROCESSORS[0],
        "size": {"height": height, "width": width},
    }


def read_preprocessor(stored: dict[str, Any], *, in_channels: int, size_hw: SizeHW | None = None) -> Preprocessing:
    """Read a preprocessor_config.json; missing keys have transformers' defaults.

    Args:
        stored: its content; empty if there is no such file.
        in_channels: image channels of the network.
        size_hw: input size of the model, for messages; None: 640x640.

    Raises:
        WeightsError: a setting is not supported or has an invalid value; the message names it.
    """
    if not stored:
        return Preprocessing()
    _check_keys(stored)
    values = _DEFAULTS | stored
    asked_hw, preparation = _size(values, usual_hw=size_hw or DEFAULT_SIZE_HW)
    factor = _factor(values) if _flag(values, "do_rescale") else 1.0
    scale = factor * 255  # for pixels already divided by 255
    scale = 1.0 if math.isclose(scale, 1, rel_tol=_SAME_FACTOR) else scale
    mean = std = None
    if _flag(values, "do_normalize"):
        mean = tuple(value / scale for value in _channels(values, "image_mean", in_channels))
        std = tuple(value / scale for value in _channels(values, "image_std", in_channels))
    elif scale != 1:
        std = (1 / scale,) * in_channels
    lowest, highest = _NUMBERS
    if not all(lowest < one < highest for one in std or ()) or not all(abs(one) < highest for one in mean or ()):
        raise _refused(
            "rescale_factor", factor, "pixels would exceed the range of float32", "Correct it, image_mean or image_std"
        )
    if preparation and preparation.size is not None and any(mean or ()):
        reason = "padding must be 0 after normalization, which needs image_mean 0 here"
        raise _refused("image_mean", values["image_mean"], reason, _ELSEWHERE)
    return Preprocessing(asked_hw, mean, std, preparation)


def with_preprocessing(config: ModelConfig, preprocessing: Preprocessing) -> ModelConfig:
    """Return a model that applies this preprocessing before its own normalization."""
    size_hw, mean, std, _ = preprocessing
    changes: dict[str, Any] = {}
    if size_hw not in (None, config.size_hw):
        changes["eval_size_hw"] = size_hw
    if mean is not None or std is not None:
        zero, one = (0.0,) * config.in_channels, (1.0,) * config.in_channels
        shift, divisor = mean or zero, std or one
        inner = zip(shift, divisor, config.pixel_mean or zero, config.pixel_std or one, strict=True)
        both = [(first + step * then, step * last) for first, step, then, last in inner]
        changes["pixel_mean"] = None if mean is config.pixel_mean is None else tuple(one for one, _ in both)
        changes["pixel_std"] = tuple(one for _, one in both)
    return config.replace(**changes) if changes else config


def _check_keys(stored: dict[str, Any]) -> None:
    """Reject the file of another image processor, and warn about keys that RTDetrImageProcessor does not have."""
    for key in _NAMES:
        if stored.get(key) is not None and stored[key] not in _PROCESSORS:
            raise _refused(key, stored[key], f"expected {_PROCESSORS[0]!r}", "Set it if the settings match")
    known = (*_DEFAULTS, *_NAMES, *_WITHOUT_EFFECT)
    for key in sorted(stored.keys() - set(known)):
        of_others = key in _OF_OTHERS
        kind = "a setting of other image processors" if of_others else "not a setting of RTDetrImageProcessor"
        hint = "" if of_others else nearest(key, known)
        _log.warning("%s: %r is %s and has no effect.%s", PREPROCESSOR, key, kind, hint)


def _size(values: dict[str, Any], *, usual_hw: SizeHW) -> tuple[SizeHW, Preparation | None]:
    """Return the input size of the network, and how images are prepared if they are not stretched bilinearly."""
    height, width = _advised(values["size"], usual_hw)
    stretching = (
        f'{_ELSEWHERE}. To stretch images instead, which gives other detections, set "do_pad": false and '
        f'"size": {{"height": {height}, "width": {width}}}'
    )
    if not _flag(values, "do_resize"):
        raise _refused("do_resize", values["do_resize"], "images are always resized here", _ELSEWHERE)
    resample = _resample(values)
    size, key = _content(values, stretching), "size"
    size_hw = size.get("height", 0), size.get("width", 0)
    if _flag(values, "do_pad") and values["pad_size"] is not None:
        key, size_hw = "pad_size", _sides(values, "pad_size", stretching)
        most_hw = size.get("height", size.get("max_height", 1)), size.get("width", size.get("max_width", 1))
        if most_hw[0] > size_hw[0] or most_hw[1] > size_hw[1]:
            raise _refused(key, values[key], f"images of size {size} do not fit into it", "Enlarge it")
    elif "height" not in size:
        reason = "images that keep their aspect ratio must be padded to a fixed size"
        remedy = f'Set "do_pad": true and a "pad_size" of multiples of 32. {stretching}'
        raise _refused(key, values[key], reason, remedy)
    if problem := size_problem(size_hw):
        raise _refused(key, values[key], problem, "Use one of them")
    if max(size_hw) > _LARGEST:
        raise _refused(key, values[key], f"expected height and width of at most {_LARGEST}", "Use a smaller size")
    whole = size_hw == (size.get("height"), size.get("width"))
    return size_hw, None if whole and resample == 2 else Preparation(resample, None if whole else size)


def _advised(size: Any, usual_hw: SizeHW) -> SizeHW:
    """Return a size to suggest: the only number in the file, as a multiple of 32, or else `usual_hw`."""
    numbers = list(size.values()) if isinstance(size, dict) else size if isinstance(size, list) else [size]
    if len(numbers) != 1 or not _is_number(numbers[0]) or not 1 <= numbers[0] <= _LARGEST:
        return usual_hw
    side = max(1, round(numbers[0] / STRIDE)) * STRIDE
    return side, side


def _content(values: dict[str, Any], stretching: str) -> dict[str, int]:
    """Return the size of resized images, in one of transformers' three forms."""
    size = values["size"]
    if isinstance(size, dict) and any(size.keys() & keys for keys in _KEEP_RATIO):
        if set(size) not in _KEEP_RATIO or not all(type(side) is int and side > 0 for side in size.values()):
            forms = " or ".join(" and ".join(sorted(keys)) for keys in _KEEP_RATIO)
            raise _refused("size", size, f"expected whole numbers above 0 as {forms}", stretching)
        return size
    height, width = _sides(values, "size", stretching)
    if min(height, width) < 1:
        raise _refused("size", size, "expected whole numbers above 0", "Correct it")
    return {"height": height, "width": width}


def _resample(values: dict[str, Any]) -> int:
    """Return PIL's number of the resampling filter, from the number or its name."""
    found = values["resample"]
    if isinstance(found, str) and found in METHODS:
        return METHODS.index(found)
    if type(found) is int and 0 <= found < len(METHODS):
        return found
    names = ", ".join(f"{number} ({name})" for number, name in enumerate(METHODS))
    raise _refused("resample", found, f"expected one of {names}", "Use one of them")


def _sides(values: dict[str, Any], key: str, stretching: str) -> SizeHW:
    """Return height and width from an object with only these keys, or from a list of both."""
    match values[key]:
        case {"height": height, "width": width, **more} if not more and type(height) is type(width) is int:
            return height, width
        case [height, width] if type(height) is type(width) is int:
            return height, width
    raise _refused(key, values[key], "expected an object with height and width", stretching)


def _flag(values: dict[str, Any], key: str) -> bool:
    """Return a boolean; null is false, as in transformers."""
    if values[key] is not None and not isinstance(values[key], bool):
        raise _refused(key, values[key], "expected true or false", "Use one of them")
    return bool(values[key])


def _factor(values: dict[str, Any]) -> float:
    factor = values["rescale_factor"]
    if not _is_number(factor) or factor <= 0:
        raise _refused("rescale_factor", factor, "expected a number above 0", "Use 1/255 for 8-bit images")
    return float(factor)


def _channels(values: dict[str, Any], key: str, count: int) -> tuple[float, ...]:
    """Return one number per channel; a single number applies to all."""
    found = values[key]
    numbers = found if isinstance(found, list) else [found]
    fit = len(numbers) in (1, count) and all(_is_number(one) and (one > 0 or key == "image_mean") for one in numbers)
    if not fit:
        expected = (
            f"expected {counted(count, 'number')}{', above 0' if key == 'image_std' else ''}, or one for all channels"
        )
        raise _refused(key, found, expected, "Correct it, or set do_normalize to false")
    return tuple(float(one) for one in numbers) * (count if len(numbers) == 1 else 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _refused(key: str, value: Any, reason: str, remedy: str) -> WeightsError:
    shown = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}..."
    return WeightsError(f"{PREPROCESSOR}: {key} is {shown}: {reason}. {remedy}.")
