"""The image processor compared with the two of transformers, and images and annotations that those do not handle."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from rtdetr.errors import InputError
from rtdetr.preprocessing import load_image, preprocess

transformers = pytest.importorskip("transformers")

from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil  # noqa: E402

from rtdetr.hf import (  # noqa: E402
    RTDetrImageProcessor,
    RTDetrImageProcessorFast,
    image_inputs,
)
from rtdetr.hf.arguments import content_share_hw  # noqa: E402
from tests.hf.models import tiny  # noqa: E402

STOCK = (transformers.RTDetrImageProcessor, RTDetrImageProcessorPil)
SIZES = (
    {"height": 64, "width": 96},
    {"shortest_edge": 64, "longest_edge": 100},
    {"shortest_edge": 64, "longest_edge": 65},
    {"shortest_edge": 50, "longest_edge": 1333},  # the second image already has it
    {"max_height": 64, "max_width": 96},
)
ANNOTATIONS = [
    {
        "image_id": 7,
        "annotations": [
            {"bbox": [10, 5, 30, 20], "category_id": 3, "area": 600.0, "iscrowd": 0},
            {"bbox": [10, 5, 30, 20], "category_id": 4, "area": 600.0, "iscrowd": 1},  # a crowd
            {"bbox": [-5, -5, 200, 20], "category_id": 5, "area": 1.0},  # over the edge
            {"bbox": [5, 5, 0, 20], "category_id": 6, "area": 1.0, "iscrowd": 0},  # no area
            {"bbox": [89, 59, 1, 1], "category_id": 0, "area": 1.0, "iscrowd": 0},  # one pixel
        ],
    },
    {"image_id": 8, "annotations": []},
]


def sample_images() -> list[Image.Image]:
    """A wide and a tall image with blotches of a few pixels."""
    rng = np.random.default_rng(0)
    blotches = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((15, 22), (20, 12))]
    return [
        blotch.resize(size, Image.Resampling.BICUBIC)
        for blotch, size in zip(blotches, ((90, 60), (50, 80)), strict=True)
    ]


def assert_equal_batches(got: Any, expected: Any, *, tolerance: float = 1 / 255) -> None:
    """Same entries, types and shapes; pixels to the tolerance, the rest to rounding."""
    assert set(got) == set(expected)
    assert type(got["pixel_values"]) is type(expected["pixel_values"])
    assert got["pixel_values"].dtype == expected["pixel_values"].dtype
    np.testing.assert_allclose(
        np.asarray(got["pixel_values"]), np.asarray(expected["pixel_values"]), atol=tolerance * 1.001, rtol=0
    )
    if "pixel_mask" in expected:
        assert got["pixel_mask"].dtype == expected["pixel_mask"].dtype
        np.testing.assert_array_equal(got["pixel_mask"], expected["pixel_mask"])
    for mine, theirs in zip(got.get("labels", []), expected.get("labels", []), strict=True):
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype and mine[name].shape == value.shape, name
            np.testing.assert_allclose(mine[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("stock", STOCK)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_equal_to_transformers_padded(stock: Any, size: dict[str, int], return_tensors: str) -> None:
    call = {"annotations": ANNOTATIONS, "size": size, "do_pad": True, "return_tensors": return_tensors}
    assert_equal_batches(RTDetrImageProcessor()(sample_images(), **call), stock()(sample_images(), **call))


@pytest.mark.parametrize("stock", STOCK)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"size": (64, 96)},
        {"do_resize": False, "do_pad": True},
        {"do_rescale": False},
        {"do_resize": None, "do_pad": True},
        {"do_rescale": None, "do_normalize": None},
        {"do_pad": None},
        {"do_normalize": True},
        {"do_normalize": True, "do_pad": True, "size": {"max_height": 64, "max_width": 96}},
        {"do_convert_annotations": False, "do_pad": True, "pad_size": {"height": 128, "width": 160}},
        {"do_pad": True, "pad_size": {"height": 128, "width": 160}, "size": {"max_height": 64, "max_width": 96}},
        {"rescale_factor": 1 / 128},
        {"resample": 3},
        {"resample": 0},
    ],
)
def test_equal_to_transformers_setting_by_setting(stock: Any, change: dict[str, Any]) -> None:
    change = {"size": {"height": 96, "width": 160}, **change}
    call = {"annotations": ANNOTATIONS, "return_tensors": "pt", **change}
    # one step of 256, in the unit of the result
    rescaled = change.get("do_rescale", True)
    tolerance = 1.0 if not rescaled else change.get("rescale_factor", 1 / 255)
    tolerance *= 4.5 if change.get("do_normalize") else 2 if change.get("resample") == 3 else 1
    got, expected = RTDetrImageProcessor()(sample_images(), **call), stock()(sample_images(), **call)
    if not rescaled:
        got["pixel_values"], expected["pixel_values"] = got["pixel_values"].float(), expected["pixel_values"].float()
    assert_equal_batches(got, expected, tolerance=tolerance)
    by_constructor = RTDetrImageProcessor(**change)(sample_images(), annotations=ANNOTATIONS, return_tensors="pt")
    by_constructor["pixel_values"] = by_constructor["pixel_values"].to(got["pixel_values"].dtype)
    assert_equal_batches(by_constructor, got, tolerance=0)


@pytest.mark.parametrize("resample", range(6))
def test_pixels_of_every_method_are_those_of_pillow(resample: int) -> None:
    call = {"size": {"height": 96, "width": 160}, "resample": resample, "return_tensors": "pt"}
    got, expected = RTDetrImageProcessor()(sample_images(), **call), RTDetrImageProcessorPil()(sample_images(), **call)
    torch.testing.assert_close(got["pixel_values"], expected["pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("resample", ["bicubic", Image.Resampling.BICUBIC, InterpolationMode.BICUBIC])
def test_words_for_a_method(resample: Any) -> None:
    got, expected = (RTDetrImageProcessor(resample=one)(sample_images()[0]).pixel_values for one in (resample, 3))
    assert torch.equal(got, expected) and RTDetrImageProcessor(resample=resample).resample == 3


def test_the_same_pixels_as_the_rest_of_the_library() -> None:
    picture = sample_images()[0]
    got = RTDetrImageProcessor()(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(got, preprocess(picture, (640, 640)))


@pytest.mark.parametrize(
    "kind",
    ["array", "channels first", "tensor", "int64 tensor", "float 0..255", "batch", "nested", "path", "bytes"],
)
def test_every_kind_of_input_means_the_same(kind: str, tmp_path: Path) -> None:
    picture = sample_images()[0]
    array = np.asarray(picture)
    picture.save(tmp_path / "a.png")
    given_image: Any = {
        "array": array,
        "channels first": array.transpose(2, 0, 1),
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
        "int64 tensor": torch.from_numpy(array.copy()).long(),
        "float 0..255": array.astype(np.float32),
        "batch": array[None],
        "nested": [[picture]],
        "path": str(tmp_path / "a.png"),
        "bytes": (tmp_path / "a.png").read_bytes(),
    }[kind]
    got = RTDetrImageProcessor()(given_image, size={"height": 64, "width": 96}, return_tensors="pt")["pixel_values"]
    expected = RTDetrImageProcessor()(picture, size={"height": 64, "width": 96}, return_tensors="pt")["pixel_values"]
    assert got.shape == (1, 3, 64, 96)
    torch.testing.assert_close(got, expected, rtol=0, atol=1 / 255 + 1e-6 if kind == "float 0..255" else 0)


@pytest.mark.parametrize("shape", [(3, 40, 50), (40, 50, 3), (40, 50), (40, 50, 1), (1, 40, 50), (4, 40, 50)])
def test_floats_in_0_to_1_without_rescaling(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape)
    got = RTDetrImageProcessor(do_rescale=False)(torch.from_numpy(values), return_tensors="pt")["pixel_values"]
    assert got.shape == (1, 3, 640, 640) and got.dtype == torch.float32
    assert 0 <= got.min() < 0.1 and 0.9 < got.max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "F"])
def test_every_mode_gives_three_channels(mode: str) -> None:
    gray = (np.arange(40 * 50, dtype=np.uint16) * 32).reshape(40, 50)
    picture = {
        "I;16": lambda: Image.fromarray(gray),
        "F": lambda: Image.fromarray(gray.astype(np.float32) / 65535),
    }.get(mode, lambda: sample_images()[0].convert(mode))()
    got = RTDetrImageProcessor()(picture, return_tensors="np")["pixel_values"][0]
    assert got.shape == (3, 640, 640)
    np.testing.assert_array_equal(got, preprocess(load_image(picture), (640, 640)))
    assert got.std() > 0.1


def test_exif_rotation_is_applied_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_inputs._warn_once.cache_clear()
    exif = Image.Exif()
    exif[0x0112] = 6
    sample_images()[0].save(tmp_path / "turned.png", exif=exif)
    processor = RTDetrImageProcessor(size={"height": 64, "width": 96})
    annotations = {"image_id": 1, "annotations": []}
    with caplog.at_level(logging.WARNING):
        for image in (str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png")):
            batch = processor(image, annotations, return_tensors="np")
            expected = preprocess(sample_images()[0].transpose(Image.Transpose.ROTATE_270), (64, 96))
            np.testing.assert_array_equal(batch["pixel_values"][0], expected)
            assert batch["labels"][0]["orig_size"].tolist() == [90, 60]
    assert [record.message for record in caplog.records if "EXIF" in record.message] == [caplog.records[0].message]


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.zeros((0, 5, 3), np.uint8), "at least 1x1"),
        (np.zeros((0, 5, 3), np.float32), "got (0, 5, 3)"),
        (np.zeros((5, 5, 7), np.float32), "got (5, 5, 7)"),
        (np.full((5, 5, 3), np.nan), "NaN"),
        (np.full((5, 5, 3), 256), "0..255"),
        (np.full((5, 5, 3), "a"), "expected pixels"),
        ("missing.jpg", "no image"),
        (b"not a picture", "not an image"),
        ([], "at least one image"),
        (None, "got NoneType"),
        (Image.new("RGB", (0, 5)), "at least 1x1"),
    ],
)
def test_invalid_images_are_named(image: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem.replace("(", r"\(").replace(")", r"\)")):
        RTDetrImageProcessor()(image)


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    sample_images()[0].save(file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        RTDetrImageProcessor()(file)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"do_resiz": True}, "Did you mean 'do_resize'"),
        ({"size": {"shortest_edge": 64}}, "expected a size with the keys"),
        ({"size": {"height": 64}}, "size must have one of"),
        ({"size": {"shortest_edge": 64, "longest_edge": 100}, "return_tensors": "pt"}, "pass do_pad=True"),
        ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, "at least 640x640"),
        ({"do_pad": True, "pad_size": {"shortest_edge": 64}}, "at least 640x640"),
        ({"format": "coco_panoptic"}, "coco_detection"),
        ({"do_pad": True, "pad_size": {"height": "a", "width": 640}}, "at least 640x640"),
        ({"size": {"height": "a", "width": 640}}, "expected a size with the keys"),
        ({"size": 6.5}, "Could not convert"),
        ({"size": None}, "a value for size, which do_resize needs, got None"),
        ({"resample": None}, "a value for resample, which do_resize needs"),
        ({"rescale_factor": None}, "a value for rescale_factor, which do_rescale needs"),
        ({"do_normalize": True, "image_std": None}, "a value for image_std, which do_normalize needs"),
        ({"format": None}, "coco_detection, got None"),
        ({"resample": 9}, "0 to 5"),
        ({"resample": "cubic"}, "0 to 5"),
        (
            {"input_data_format": "last"},
            "expected 'channels_first' or 'channels_last' as input_data_format, got 'last'",
        ),
        ({"rescale_factor": 0}, "above 0 as rescale_factor"),
        ({"image_std": [1, 0, 1]}, "3 numbers above 0 as image_std"),
        ({"image_mean": [1, 1]}, "3 numbers as image_mean"),
        ({"do_resize": "yes"}, "True or False as do_resize"),
        ({"annotations": ANNOTATIONS[:1]}, "each of 2 images, got 1"),
        ({"annotations": "a.json"}, "got str"),
        ({"annotations": [{"image_id": 1}] * 2}, "got .'image_id'"),
        ({"annotations": [{"image_id": "a.jpg", "annotations": []}] * 2}, "number as image_id"),
        ({"annotations": [{"image_id": 2**63, "annotations": []}] * 2}, "number as image_id, got 9223372036854775808"),
        ({"annotations": [{"image_id": 1, "annotations": [{"bbox": [1, 2, 3, 4]}]}] * 2}, "annotation 0 of image 1"),
        ({"annotations": [{"image_id": 1, "annotations": [{"bbox": [1, 2, 3], "category_id": 1}]}] * 2}, "numbers"),
        (
            {"annotations": [{"image_id": 1, "annotations": [{"bbox": [1, 2, 3, 1e999], "category_id": 1}]}] * 2},
            "finite",
        ),
        (
            {"annotations": [{"image_id": 1, "annotations": [{"bbox": [1, 2, 3, 4], "category_id": 0.5}]}] * 2},
            "an integer",
        ),
    ],
)
def test_wrong_calls_are_explained(call: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        RTDetrImageProcessor()(sample_images(), **call)


def test_without_return_tensors_images_may_differ_in_size() -> None:
    batch = RTDetrImageProcessor(size={"max_height": 64, "max_width": 96})(sample_images(), ANNOTATIONS)
    assert [tuple(values.shape) for values in batch["pixel_values"]] == [(3, 64, 96), (3, 64, 40)]
    assert isinstance(RTDetrImageProcessor()(sample_images())["pixel_values"], torch.Tensor)


def outputs(num_classes: int = 5, num_images: int = 2, **more: Any) -> Any:
    return SimpleNamespace(
        logits=3 * torch.randn(num_images, 20, num_classes), pred_boxes=torch.rand(num_images, 20, 4), **more
    )


@pytest.mark.parametrize("target_sizes", [None, [(480, 640), (333, 500)], torch.tensor([[480, 640], [333, 500]])])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_post_processing_equals_transformers(target_sizes: Any, threshold: float) -> None:
    result = outputs()
    got = RTDetrImageProcessor().post_process_object_detection(result, threshold, target_sizes)
    for stock in STOCK:
        expected = stock().post_process_object_detection(result, threshold, target_sizes)
        for mine, theirs in zip(got, expected, strict=True):
            assert set(mine) == set(theirs)
            for name, value in theirs.items():
                assert mine[name].dtype == value.dtype
                torch.testing.assert_close(mine[name], value)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax")
def test_softmax_is_over_all_classes_including_the_last() -> None:
    """Transformers takes it over the images of a batch, so that one image alone has nothing but ones."""
    result = outputs(num_images=1)
    result.logits[0, 3, 4] = 20.0
    stock = transformers.RTDetrImageProcessor().post_process_object_detection(result, 0.0, use_focal_loss=False)
    assert stock[0]["scores"].eq(1).all()
    got = RTDetrImageProcessor().post_process_object_detection(result, 0.0, [(10, 20)], use_focal_loss=False)[0]
    expected = result.logits[0].exp() / result.logits[0].exp().sum(1, keepdim=True)
    assert got["labels"][0] == 4 and got["scores"][0] > 0.99
    torch.testing.assert_close(got["scores"], expected.max(1).values.sort(descending=True).values)
    box = result.pred_boxes[0, 3]
    torch.testing.assert_close(got["boxes"][0, :2], (box[:2] - box[2:] / 2) * torch.tensor([20.0, 10.0]))


def test_padding_is_undone() -> None:
    """A box marked in the image comes back where it was, with padding on both axes."""
    processor = RTDetrImageProcessor(
        size={"max_height": 64, "max_width": 96}, do_pad=True, pad_size={"height": 128, "width": 160}
    )
    annotation = {"image_id": 1, "annotations": [{"bbox": [10, 5, 30, 20], "category_id": 2}]}
    batch = processor(sample_images()[0], annotation, return_tensors="pt")
    share = content_share_hw(batch["pixel_mask"], batch["pixel_values"])
    assert share.tolist() == [[0.5, pytest.approx(0.6)]]
    result = SimpleNamespace(
        logits=torch.full((1, 1, 3), 9.0), pred_boxes=batch["labels"][0]["boxes"][None], content_share_hw=share
    )
    found = processor.post_process_object_detection(result, target_sizes=[(60, 90)])
    torch.testing.assert_close(found[0]["boxes"][0], torch.tensor([10.0, 5.0, 40.0, 25.0]))
    result.content_share_hw = None  # as of a model that was given no mask
    found = processor.post_process_object_detection(result, target_sizes=[(60, 90)])
    assert found[0]["boxes"][0, 2] < 30


def test_padding_is_undone_behind_the_model() -> None:
    model, pads = tiny(), {"do_pad": True, "pad_size": {"height": 128, "width": 160}}
    processor = RTDetrImageProcessor(size={"max_height": 64, "max_width": 96}, **pads)
    with torch.inference_mode():
        result = model(**processor(sample_images(), return_tensors="pt"))
    assert result.content_share_hw.tolist() == [[0.5, pytest.approx(0.6)], [0.5, 0.25]]
    sizes = [(60, 90), (80, 50)]
    undone = processor.post_process_object_detection(result, 0.0, sizes)
    result.content_share_hw = None
    padded = processor.post_process_object_detection(result, 0.0, [(120, 150), (160, 200)])
    for one, other in zip(undone, padded, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=1e-4)


def test_half_precision_and_a_wrong_number_of_sizes() -> None:
    result = outputs()
    result.logits, result.pred_boxes = result.logits.bfloat16(), result.pred_boxes.bfloat16()
    found = RTDetrImageProcessor().post_process_object_detection(result, 0.0)
    assert found[0]["scores"].dtype == found[0]["boxes"].dtype == torch.float32
    with pytest.raises(InputError, match=r"each of 2 images, got \(1, 2\)"):
        RTDetrImageProcessor().post_process_object_detection(result, 0.5, [(1, 1)])
    with pytest.raises(InputError, match=r"each of 2 images, got \(2,\)"):
        RTDetrImageProcessor().post_process_object_detection(result, 0.5, (120, 150))


def test_forms_of_target_sizes() -> None:
    process, sizes = RTDetrImageProcessor().post_process_object_detection, [(120, 150), (160, 200)]
    result = outputs()
    expected = process(result, 0.0, sizes)
    for form in (torch.tensor(sizes), np.array(sizes), [torch.tensor(size) for size in sizes]):
        for one, other in zip(process(result, 0.0, form), expected, strict=True):
            assert torch.equal(one["boxes"], other["boxes"])


def test_unknown_return_tensors() -> None:
    with pytest.raises(InputError, match="expected 'pt', 'np' or None as return_tensors, got 'tf'"):
        RTDetrImageProcessor()(Image.new("RGB", (64, 64)), return_tensors="tf")


@pytest.mark.parametrize("switch", ["do_resize", "do_rescale", "do_pad", "do_normalize", "do_convert_annotations"])
def test_null_in_a_file_is_off(switch: str, tmp_path: Path) -> None:
    for value, expected in ((None, False), (True, True)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({switch: value}))
        assert getattr(RTDetrImageProcessor.from_pretrained(tmp_path), switch) is expected
        assert getattr(RTDetrImageProcessor(**{switch: value}), switch) is expected


def test_its_name_in_older_transformers() -> None:
    assert RTDetrImageProcessorFast is RTDetrImageProcessor


CHANGED = {
    "size": {"shortest_edge": 480, "longest_edge": 800},
    "do_pad": True,
    "pad_size": {"height": 800, "width": 800},
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
}


@pytest.mark.parametrize("change", [{}, CHANGED])
def test_files_open_in_transformers_and_the_reverse(change: dict[str, Any], tmp_path: Path) -> None:
    RTDetrImageProcessor(**change).save_pretrained(tmp_path / "ours")
    transformers.RTDetrImageProcessor(**change).save_pretrained(tmp_path / "stock")
    files = [json.loads((tmp_path / who / "preprocessor_config.json").read_text()) for who in ("ours", "stock")]
    assert files[0] == files[1]
    opened = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert type(opened) is transformers.RTDetrImageProcessor
    call = {"return_tensors": "pt", "annotations": ANNOTATIONS}
    expected = opened(sample_images(), **call)
    ours = RTDetrImageProcessor.from_pretrained(tmp_path / "stock")
    assert_equal_batches(ours(sample_images(), **call), expected, tolerance=4.5 / 255 if change else 1 / 255)
    assert RTDetrImageProcessor.from_pretrained(tmp_path / "stock", do_pad=True).do_pad is True
    assert ours.size["height" if not change else "shortest_edge"] == (640 if not change else 480)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["image_id", "annotations", "bbox", "category_id", "area"]), inner)
        ),
        max_leaves=12,
    )
)
def test_random_annotations_give_labels_or_an_input_error(annotation: Any) -> None:
    processor = RTDetrImageProcessor(do_resize=False)
    try:
        labels = processor(np.zeros((8, 8, 3), np.uint8), [annotation])["labels"][0]
    except InputError:
        return
    assert labels["boxes"].shape == (len(labels["class_labels"]), 4)
