"""preprocessor_config.json: each setting has the same effect as in transformers, or is refused by name."""

import contextlib
import functools
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import rtdetr
from rtdetr.errors import InputError, RTDETRError, WeightsError
from rtdetr.export import export
from rtdetr.export.options import ExportOptions
from rtdetr.preprocessing import Preparation
from rtdetr.weights import read_checkpoint, save_huggingface
from rtdetr.weights.convert import convert
from rtdetr.weights.huggingface_preprocessor import Preprocessing, read_preprocessor, write_preprocessor
from tests.weights.small import small

PHOTO = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
USUAL = write_preprocessor(rtdetr.zoo.model_config("test-tiny"))
BLANK = np.full((1, 40, 3), 255, dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: without our description."""
    place = tmp_path_factory.mktemp("model")
    save_huggingface(small(num_classes=3), place)
    save_file(load_file(place / "model.safetensors"), place / "model.safetensors", metadata={"format": "pt"})
    return place


def put(folder: Path, changes: dict[str, Any]) -> None:
    """Write a file that differs from the usual one; `...` removes a key."""
    stored = USUAL | changes
    stored = {key: value for key, value in stored.items() if value is not ...}
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))


@functools.cache
def stock_model(folder: Path) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.RTDetrV2ForObjectDetection.from_pretrained(folder).eval()


def of_transformers(folder: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Scores, labels and boxes of the best 10 detections by transformers' processor and model."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.RTDetrImageProcessor.from_pretrained(folder)
    model = stock_model(folder)
    if isinstance(processor.resample, str):  # which transformers itself does not take before release 5
        processor.resample = Image.Resampling[processor.resample.upper()]
    pixels = processor(images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    with torch.inference_mode():
        outputs = model(pixels.float())
    found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[image.shape[:2]])[0]
    return {key: value[:10].numpy() for key, value in found.items()}


FOLLOWED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "another size": {"size": {"height": 96, "width": 64}},
    "a size as a list": {"size": [64, 96]},
    "normalized": {"do_normalize": True},
    "normalized by own numbers": {"do_normalize": True, "image_mean": [0.1, 0.5, 0.6], "image_std": [0.5, 0.3, 0.2]},
    "normalized by one number": {"do_normalize": True, "image_mean": 0.5, "image_std": [0.25]},
    "normalized by the defaults": {"do_normalize": True, "image_mean": ..., "image_std": ...},
    "not rescaled": {"do_rescale": False},
    "null is off": {"do_rescale": None, "do_normalize": None},
    "not rescaled but normalized": {"do_rescale": False, "do_normalize": True, "image_mean": [120, 110, 100.0]},
    "another factor": {"rescale_factor": 1 / 127.5},
    "another factor, and normalized": {"rescale_factor": 1 / 127.5, "do_normalize": True},
    "one over 255 in float32": {"rescale_factor": 0.003921568859368563},
    "padding that adds nothing": {"do_pad": True, "pad_size": {"height": 64, "width": 64}},
    "padding without a size": {"do_pad": True, "size": {"height": 96, "width": 96}},
    "no padding of any size": {"do_pad": False, "pad_size": {"height": 7, "width": 7}},
    "bilinear by name": {"resample": "bilinear"},
    "all left out but the size": {key: ... for key in USUAL if key not in ("size", "image_processor_type")},
    "settings without effect": {
        "do_center_crop": True,
        "crop_size": 32,
        "do_convert_rgb": True,
        "data_format": "channels_first",
        "default_to_square": False,
        "disable_grouping": True,
        "image_seq_length": 3,
        "format": "coco_detection",
        "do_convert_annotations": False,
        "max_size": 20,
    },
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_detections_equal_transformers(name: str, folder: Path) -> None:
    put(folder, FOLLOWED[name])
    detector = rtdetr.load(folder, device="cpu", precision="float32", fast_resize=True)  # torch's, as in transformers
    for image in (PHOTO, BLANK):
        expected = of_transformers(folder, image)
        found = detector(image, threshold=0.0, max_detections=10)
        np.testing.assert_allclose(found.scores, expected["scores"], atol=2e-5)
        clear = np.diff(
            expected["scores"], prepend=2, append=-1
        )  # of nearly equal scores the order is left to rounding
        clear = (np.abs(clear[:-1]) > 1e-4) & (np.abs(clear[1:]) > 1e-4)
        assert clear.sum() > 3
        assert found.labels[clear].tolist() == expected["labels"][clear].tolist()
        np.testing.assert_allclose(found.boxes_xyxy[clear], expected["boxes"][clear], atol=2e-2)


def test_an_exported_file_does_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    put(folder, FOLLOWED["another factor, and normalized"])
    export(folder, tmp_path / "model.onnx")
    # of the network's size: nothing is resized, and so not rounded
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = rtdetr.load(tmp_path / "model.onnx", device="cpu")(image, threshold=0.0, max_detections=5)
    np.testing.assert_allclose(found.scores, of_transformers(folder, image)["scores"][:5], atol=1e-4)


def test_the_settings_change_the_detections(folder: Path) -> None:
    """The comparison above sees each of them."""
    scores = []
    for name in ("as it is", "normalized", "not rescaled", "another factor", "another size"):
        put(folder, FOLLOWED[name])
        scores.append(rtdetr.load(folder, device="cpu", precision="float32")(PHOTO, threshold=0.0).scores[:5])
    for one in range(len(scores)):
        assert all(np.abs(scores[one] - other).max() > 1e-3 for other in scores[one + 1 :])


REFUSED: dict[str, Any] = {
    "do_resize": [False, None, 1, "true", []],
    "size": [
        {"shortest_edge": 640, "longest_edge": 1333},
        {"max_height": 64, "max_width": 64},
        {"longest_edge": 64},
        {"shortest_edge": 64, "longest_edge": 0},
        {"shortest_edge": 64, "longest_edge": 96.0},
        {"shortest_edge": 64, "max_height": 96},
        {"height": 64},
        {"height": 64, "width": 64, "shortest_edge": 64},
        {"height": 60, "width": 64},
        {"height": 64.0, "width": 64},
        {"height": True, "width": 64},
        {"height": 0, "width": 64},
        {"height": 32 * 10**9, "width": 32},
        [64, 64, 64],
        64,
        None,
        "64",
        {},
    ],
    "resample": [6, -1, "linear", True, None, 2.5, [2]],
    "do_rescale": [0, "false", {}],
    "rescale_factor": [0, -1, None, "1/255", True, 1e-200, 10**40, [0.5]],
    "do_normalize": [1, "no", [True]],
    "do_pad": [1, "yes"],
    "image_processor_type": ["DetrImageProcessor", "", 3, ["RTDetrImageProcessor"]],
    "feature_extractor_type": ["DetrFeatureExtractor"],
}
REFUSED_IN_USE: list[dict[str, Any]] = [
    *({"do_normalize": True, "image_mean": value} for value in (None, [0.5, 0.5], "0.5", [None] * 3, [10**400] * 3)),
    *({"do_normalize": True, "image_std": value} for value in (0, [0.2, 0.2, 0], [-1.0] * 3, [True] * 3, [], {})),
    *(
        {"do_pad": True, "pad_size": value}
        for value in ({"height": 90, "width": 96}, {"height": 64}, 64, [64], [32, 64])
    ),
    {"do_pad": True, "size": {"max_height": 96, "max_width": 64}, "pad_size": {"height": 64, "width": 64}},
    {"do_pad": True, "pad_size": [96, 96], "do_normalize": True, "image_mean": [0.1, 0, 0]},
]


@pytest.mark.parametrize(
    ("key", "changes"),
    [(key, {key: value}) for key, values in REFUSED.items() for value in values]
    + [(next(reversed(changes)), changes) for changes in REFUSED_IN_USE],
)
def test_unsupported_settings_are_refused_by_name(key: str, changes: dict[str, Any]) -> None:
    stored = USUAL | changes
    with pytest.raises(WeightsError, match=rf"^preprocessor_config\.json: {key} is ") as error:
        read_preprocessor(stored, in_channels=3)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


PREPARED: dict[str, dict[str, Any]] = {
    "nearest": {"resample": 0},
    "bicubic": {"resample": 3},
    "box by name": {"resample": "box"},
    "fitted": {"size": {"max_height": 96, "max_width": 64}, "do_pad": True, "pad_size": {"height": 96, "width": 64}},
    "fitted into more": {
        "size": {"max_height": 60, "max_width": 50},
        "do_pad": True,
        "pad_size": [64, 96],
        "resample": 1,
    },
    "by edges": {"size": {"shortest_edge": 40, "longest_edge": 70}, "do_pad": True, "pad_size": [96, 96]},
    "stretched and padded": {"size": {"height": 50, "width": 33}, "do_pad": True, "pad_size": [64, 64]},
    "padded, not rescaled": {"do_pad": True, "pad_size": [96, 64], "do_rescale": False},
    "padded, divided": {"do_pad": True, "pad_size": [64, 96], "do_normalize": True, "image_mean": 0, "image_std": 0.5},
}
IMAGES = (PHOTO, PHOTO.transpose(1, 0, 2), np.full((1, 40, 3), 255, dtype=np.uint8), PHOTO[:1, :1])


@pytest.mark.parametrize("name", PREPARED)
def test_images_are_prepared_as_in_the_facade(name: str, folder: Path) -> None:
    """The same pixels at the top left, the same boxes in pixels of the image."""
    hf = pytest.importorskip("rtdetr.hf")
    put(folder, PREPARED[name])
    processor, model = hf.RTDetrImageProcessor.from_pretrained(folder), facade_model(folder)
    detector = rtdetr.load(folder, device="cpu", precision="float32")
    found = detector(list(IMAGES), threshold=0.0, max_detections=10)
    for image, ours in zip(IMAGES, found, strict=True):
        inputs = processor(image, return_tensors="pt", input_data_format="channels_last")
        pixels = processor(image, do_rescale=False, do_normalize=False, input_data_format="channels_last")
        assert np.array_equal(detector.prepare(detector.read(image), detector.size_hw)[0], pixels["pixel_values"][0])
        with torch.inference_mode():
            outputs = model(**{**inputs, "pixel_values": inputs["pixel_values"].float()})
        theirs = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[image.shape[:2]])[0]
        np.testing.assert_allclose(ours.scores, theirs["scores"][:10], atol=2e-5)
        scores = np.asarray(theirs["scores"])[:11]
        clear = np.append(np.diff(scores) < -1e-4, False)[:10] & (np.diff(scores[:10], prepend=2) < -1e-4)
        np.testing.assert_allclose(ours.boxes_xyxy[clear], theirs["boxes"][:10][clear], atol=2e-2)
        assert ours.image_size_wh == image.shape[1::-1]


@functools.cache
def facade_model(folder: Path) -> Any:
    hf = pytest.importorskip("rtdetr.hf")
    return hf.RTDetrV2ForObjectDetection.from_pretrained(folder)


def test_padded_images_of_another_size_are_refused(folder: Path) -> None:
    put(folder, PREPARED["by edges"])
    detector = rtdetr.load(folder, device="cpu")
    assert "at 96x96, images resized by {'shortest_edge': 40, 'longest_edge': 70} and padded, bilinear" in repr(
        detector
    )
    with pytest.raises(InputError, match=r"expected the size 96x96, to which images are .*, got 64x64; leave it out"):
        detector(PHOTO, size_hw=(64, 64))
    found = pickle.loads(pickle.dumps(detector))(PHOTO, threshold=0.0)
    assert np.array_equal(found.boxes_xyxy, detector(PHOTO, threshold=0.0).boxes_xyxy)
    detector.preparation = Preparation(size={"shortest_edge": 90, "longest_edge": 180})
    with pytest.raises(InputError, match=r"50x90 pixels .* becomes 90x162 .* does not fit .* input of 96x96"):
        detector(PHOTO)


@pytest.mark.parametrize("name", ["bicubic", "fitted"])
def test_functions_that_stretch_images_refuse_models_that_pad(name: str, folder: Path, tmp_path: Path) -> None:
    put(folder, PREPARED[name])
    field = "resample" if name == "bicubic" else "size, pad_size"
    for call in (
        lambda: export(folder, tmp_path / "x.onnx", options=ExportOptions()),
        lambda: read_checkpoint(folder / "model.safetensors"),
        lambda: convert(str(folder), tmp_path / "x.pth"),
        lambda: rtdetr.train("data", weights=folder, output_dir=tmp_path),
    ):
        with pytest.raises(WeightsError, match=rf"^{folder}.*: preprocessor_config\.json: {field}: images of this"):
            call()
    assert not list(tmp_path.iterdir())


def test_unknown_keys_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    stored = USUAL
    with caplog.at_level(logging.WARNING):
        assert read_preprocessor({**stored, "do_normalise": True}, in_channels=3) == Preprocessing((64, 64))
    assert "'do_normalise' is not a setting of RTDetrImageProcessor and has no effect. Did you mean 'do_normalize'" in (
        caplog.text
    )
    assert read_preprocessor({}, in_channels=3) == Preprocessing()


@pytest.mark.parametrize("key", ["do_reduce_labels", "ensure_multiple_of"])
def test_settings_of_other_processors_give_a_warning(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_preprocessor({**USUAL, key: True, "_processor_clas": "x"}, in_channels=3)
    assert caplog.messages == [
        "preprocessor_config.json: '_processor_clas' is not a setting of RTDetrImageProcessor and has no effect. "
        "Did you mean 'processor_class'?",
        f"preprocessor_config.json: '{key}' is a setting of other image processors and has no effect.",
    ]


def test_a_refusal_names_the_size_of_the_model(tmp_path: Path) -> None:
    save_huggingface(small(num_classes=3), tmp_path)
    for changes in (
        {"size": {"max_height": 50, "max_width": 90}},
        {"resample": 3},
        {"do_pad": True, "pad_size": {"height": 96}},
    ):
        put(tmp_path, changes)
        with pytest.raises(WeightsError, match=r'set "do_pad": false,? .*"size": \{"height": 64, "width": 64\}'):
            read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("size", "advised"),
    [(320, 320), ([96], 96), ({"height": 130}, 128), (3, 32), (None, 64), ("x", 64), (-5, 64), (1e9, 64), (True, 64)],
)
def test_a_refusal_names_the_size_of_the_file(size: Any, advised: int) -> None:
    advice = rf'set "do_pad": false and "size": \{{"height": {advised}, "width": {advised}\}}'
    with pytest.raises(WeightsError, match=rf"size is .*{advice}"):
        read_preprocessor({**USUAL, "size": size}, in_channels=3, size_hw=(64, 64))


def test_a_network_that_normalizes_itself(tmp_path: Path) -> None:
    """What the file asks for comes first, then what the network does already."""
    model = small(num_classes=3, pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.2, 0.3, 0.4))
    save_huggingface(model, tmp_path)
    assert read_checkpoint(tmp_path).config == model.config
    stored = USUAL | {"do_normalize": True, "image_mean": 0.25, "image_std": 0.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    config = read_checkpoint(tmp_path).config
    assert config.pixel_mean == pytest.approx((0.5, 0.45, 0.4)) and config.pixel_std == pytest.approx((0.1, 0.15, 0.2))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 700) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "max_height", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*USUAL, "pad_size"]), VALUES, max_size=3))
def test_any_value_is_applied_or_refused(changes: dict[str, Any]) -> None:
    message = None
    try:
        found = read_preprocessor(USUAL | changes, in_channels=3)
    except RTDETRError as error:
        message = str(error)
    if message is not None:
        assert any(f"preprocessor_config.json: {key} is " in message for key in changes)
        return
    assert found.size_hw is not None and all(side % 32 == 0 for side in found.size_hw)
    if found.preparation is not None:
        with contextlib.suppress(InputError):  # it does not fit
            assert found.preparation.apply(PHOTO, found.size_hw).shape == (3, *found.size_hw)
    assert found.std is None or (len(found.std) == 3 and min(found.std) > 0)
