"""Every source, batch and file format of an image gives the same detections."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr import devices
from rtdetr.categories import Categories
from rtdetr.detections import Detections
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.models import RTDETR, build_model, postprocess
from rtdetr.preprocessing import preprocess, resize
from rtdetr.runtimes import load
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import save_weights

HEIGHT, WIDTH = 50, 70


def make_model(**options) -> RTDETR:
    """A tiny network whose random heads give scores and boxes that depend on the image."""
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=5, **options)
    for head in (model.decoder.enc_score_head, *model.decoder.dec_score_head):
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.zeros_(head.bias)
    for head in (model.decoder.enc_bbox_head, *model.decoder.dec_bbox_head):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return model


def make_detector(model=None, **options) -> TorchDetector:
    options = {"device": "cpu", "precision": "float32", **options}
    return TorchDetector(model or make_model(), Categories.numbered(5), **options)


@pytest.fixture(scope="module")
def detector():
    return make_detector()


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def assert_same(first: Detections, second: Detections, tolerance: float = 0.0) -> None:
    assert first.image_size_wh == second.image_size_wh
    assert len(first) == len(second) > 0
    np.testing.assert_allclose(first.scores, second.scores, atol=tolerance, rtol=0)
    order = list(range(len(first)))
    if tolerance:  # the ranks of close scores may be exchanged
        distances = np.abs(first.boxes_xyxy[:, None] - second.boxes_xyxy[None]).max(-1)
        order = (distances + 1000 * (first.labels[:, None] != second.labels[None])).argmin(1).tolist()
        assert sorted(order) == list(range(len(second)))
    np.testing.assert_allclose(first.boxes_xyxy, second.boxes_xyxy[order], atol=100 * tolerance, rtol=0)
    assert np.array_equal(first.labels, second.labels[order])


def test_result_is_that_of_the_published_pipeline(rgb):
    model = make_model()
    found = make_detector(model)(rgb, threshold=0.0)
    images = torch.from_numpy(preprocess(rgb, (64, 64)))[None]
    with torch.no_grad():
        output = model.eval()(images)
    labels, boxes, scores = postprocess(output.logits, output.boxes_cxcywh, sizes_wh=torch.tensor([[WIDTH, HEIGHT]]))
    assert found.scores.std() > 0.05  # the network says something
    expected = Detections(boxes[0].numpy(), scores[0].numpy(), labels[0].numpy(), found.names, (WIDTH, HEIGHT))
    assert_same(found, expected, 3e-5)


def test_every_kind_of_source_is_the_same(detector, rgb, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(rgb).save(path)
    expected = detector(rgb, threshold=0.0)
    chw = torch.from_numpy(rgb).permute(2, 0, 1)
    sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.fromarray(rgb)]
    sources += [rgb.astype(np.uint16) * 257, rgb / 255, chw, chw / 255, chw.double() / 255]
    for source in sources:
        assert_same(detector(source, threshold=0.0), expected)
    for found in detector(sources, threshold=0.0, batch_size=3):
        assert_same(found, expected, 1e-5)


def test_file_formats_that_hold_the_same_pixels_are_the_same(detector, rgb):
    image = Image.fromarray(rgb)
    expected = detector(image, threshold=0.0)
    for mode in ("RGBA", "CMYK", "RGBX"):
        assert_same(detector(image.convert(mode), threshold=0.0), expected)
    assert_same(detector(encoded(image.convert("CMYK"), format="TIFF"), threshold=0.0), expected)
    palette = image.quantize(64)
    assert_same(detector(palette, threshold=0.0), detector(palette.convert("RGB"), threshold=0.0))
    gray = image.convert("L")
    expected = detector(gray.convert("RGB"), threshold=0.0)
    sixteen = np.asarray(gray).astype(np.uint16) * 257
    for source in (gray, np.asarray(gray), sixteen, encoded(Image.fromarray(sixteen), format="PNG"), sixteen / 65535):
        assert_same(detector(source, threshold=0.0), expected)


def test_rotated_photo_is_turned_upright(detector, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = encoded(Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_90), format="PNG", exif=exif)
    assert_same(detector(rotated, threshold=0.0), detector(rgb, threshold=0.0))


def test_lists_keep_the_order_and_the_sizes(detector, rgb):
    pictures = [rgb, rgb[:20], rgb[:, :33], rgb[:1, :1], rgb[::-1]]
    expected = [detector(picture, threshold=0.0) for picture in pictures]
    for batch_size in (1, 2, 5, 8):
        results = detector(pictures, threshold=0.0, batch_size=batch_size)
        assert [r.image_size_wh for r in results] == [(p.shape[1], p.shape[0]) for p in pictures]
        for found, alone in zip(results, expected, strict=True):
            assert_same(found, alone, 1e-5)
    assert detector(tuple(pictures[:1]), threshold=0.0)[0].image_size_wh == (WIDTH, HEIGHT)
    assert detector([]) == []


def test_batches_in_one_array_or_tensor(detector, rgb):
    pictures = np.stack([rgb, rgb[::-1]])
    expected = [detector(picture, threshold=0.0) for picture in pictures]
    for source in (pictures, torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2)):
        results = detector(source, threshold=0.0)
        assert len(results) == 2
        for found, alone in zip(results, expected, strict=True):
            assert_same(found, alone, 1e-5)


def test_threshold_and_count(detector, rgb):
    everything = detector(rgb, threshold=0.0, max_detections=1000)
    assert len(everything) == 30 * 5  # queries times classes
    middle = float(np.median(everything.scores))
    some = detector(rgb, threshold=middle)
    assert 0 < len(some) < len(everything)
    assert some.scores.min() > middle
    assert len(detector(rgb, threshold=1.0)) == 0
    assert_same(detector(rgb, threshold=0.0, max_detections=7), everything[:7])


def test_each_class_has_its_threshold(detector, rgb):
    whole = detector(rgb, threshold=0.0)
    thresholds = [float(np.median(whole.scores[whole.labels == label])) for label in range(4)] + [0.0]
    found = make_detector(thresholds=thresholds)(rgb, threshold="auto")
    assert_same(found, whole[whole.scores > np.array(thresholds)[whole.labels]])
    assert 0 < len(found) < len(whole)


def test_one_label_per_query(detector, rgb):
    whole = detector(rgb, threshold=0.0)
    single = make_detector(one_label=True)(rgb, threshold=0.0)
    assert (len(whole), len(single)) == (5 * 30, 30)
    boxes, first = np.unique(whole.boxes_xyxy, axis=0, return_index=True)  # a query's best class comes first
    assert len(boxes) == 30
    assert_same(single, whole[np.sort(first)])


def test_suppression_leaves_no_overlap_in_a_class(detector, rgb):
    whole = detector(rgb, threshold=0.0)
    found = make_detector(nms_iou=0.01)(rgb, threshold=0.0)
    for label in range(5):
        kept = []
        for row in whole[whole.labels == label]:
            if all(iou(row.box_xyxy, other) <= 0.01 for other in kept):
                kept.append(row.box_xyxy)
        assert [row.box_xyxy for row in found[found.labels == label]] == kept
    assert 5 < len(found) < len(whole)
    high = float(whole.scores[20])
    assert_same(make_detector(nms_iou=0.01)(rgb, threshold=high), found.above(high))  # weak boxes suppress nothing


def iou(first, second):
    width, height = (max(0, min(first[i + 2], second[i + 2]) - max(first[i], second[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def test_other_sizes(rgb):
    detector = make_detector(size_hw=(32, 96))
    assert detector.size_hw == (32, 96)
    assert_same(detector(rgb, threshold=0.0), make_detector()(rgb, threshold=0.0, size_hw=(32, 96)))
    assert make_detector().size_hw == (64, 64)
    config = make_model().config.replace(eval_size_hw=None)
    assert make_detector(RTDETR(config)).size_hw == (640, 640)


def test_the_model_of_the_caller_is_not_changed(rgb):
    model = make_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    make_detector(model, precision="bfloat16")(rgb)
    assert model.training and not model.is_fused
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_batch_norm_is_in_eval_mode_even_if_the_model_trains(rgb):
    model = make_model()
    assert_same(make_detector(model.train())(rgb, threshold=0.0), make_detector(model.eval())(rgb, threshold=0.0))


def test_other_channel_counts(rgb):
    gray = make_detector(make_model(in_channels=1))
    assert_same(gray(rgb, threshold=0.0), gray(np.asarray(Image.fromarray(rgb).convert("L")), threshold=0.0))
    six = make_detector(make_model(in_channels=6))
    pixels = np.dstack([rgb, rgb])
    assert_same(six(pixels, threshold=0.0), six(torch.from_numpy(pixels).permute(2, 0, 1), threshold=0.0))
    with pytest.raises(InputError, match=r"expected an array \(h, w, 6\)"):
        six(rgb)


def test_bfloat16_is_near_float32(rgb):
    narrow = make_detector(precision="bfloat16")
    assert narrow.dtype == torch.bfloat16
    found, expected = narrow(rgb, threshold=0.0), make_detector()(rgb, threshold=0.0)
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores[:20], expected.scores[:20], atol=0.1)


def test_automatic_precision_follows_the_machine(monkeypatch):
    for amx, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_amx", lambda amx=amx: amx)
        assert make_detector(precision="auto").dtype == expected
    assert devices.inference_dtype(torch.device("cuda"), "auto") == torch.float16


def test_loading_says_once_what_it_runs_on(caplog, rgb, tmp_path):
    save_weights(make_model(), tmp_path / "model.pth", categories=Categories.numbered(5))
    with caplog.at_level(logging.INFO, logger="rtdetr"):
        detector = load(str(tmp_path / "model.pth"), device="cpu", precision="float32")
        detector([rgb, rgb])
    assert [record.message for record in caplog.records] == [f"detecting with {detector.description}"]
    assert detector.description == "test-tiny (5 classes) in float32 on cpu at 64x64"
    assert repr(detector) == f"TorchDetector: {detector.description}"


def test_damaged_weights_are_distinguished_from_no_detections(rgb):
    model = make_model()
    with torch.no_grad():
        model.decoder.dec_score_head[-1].weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="contains NaN or infinity"):
        make_detector(model)(rgb)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_hw": (640, 650)}, "got 640x650; the nearest are 640x640 and 640x672"),
        ({"size_hw": (16, 64)}, "the nearest are 32x64"),
        ({"size_hw": (0, 64)}, r"expected the size as \(height, width\)"),
        ({"threshold": 1.5}, r"threshold must be in 0\.\.1 or 'auto', got 1\.5"),
        ({"threshold": "auto"}, "these do not have. Measure and store them with: rtdetr evaluate"),
        ({"threshold": float("nan")}, "got nan"),
        ({"max_detections": 0}, "max_detections must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
    ],
)
def test_options_out_of_range(detector, rgb, options, message):
    with pytest.raises(InputError, match=message):
        detector(rgb, **options)


def test_bad_construction():
    with pytest.raises(InputError, match="the model has 5 classes, got 4 categories"):
        TorchDetector(make_model(), Categories.numbered(4))
    with pytest.raises(InputError, match="the model has 5 classes, got 2 thresholds"):
        make_detector(thresholds=[0.5, 0.5])
    with pytest.raises(InputError, match=r"NMS IoU threshold must be in 0\.\.1, got nan"):
        make_detector(nms_iou=float("nan"))
    with pytest.raises(InputError, match="nearest"):
        make_detector(size_hw=(100, 100))
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        make_detector(device="gpu")
    with pytest.raises(ConfigError, match=r"Did you mean 'float16'\?"):
        make_detector(precision="floats16")


def test_bad_images(detector, rgb):
    with pytest.raises(InputError, match="image 2 of the list: no image nowhere"):
        detector([rgb, rgb, "nowhere.jpg", rgb], batch_size=2)
    with pytest.raises(InputError, match="channels-first"):
        detector(np.zeros((3, 20, 20), np.uint8))
    with pytest.raises(InputError, match=r"expected an image tensor \(channels, height, width\)"):
        detector(torch.zeros(20, 20))
    with pytest.raises(InputError, match=r"got int64"):
        detector(torch.zeros(3, 20, 20, dtype=torch.int64))
    with pytest.raises(InputError, match="NaN"):
        detector(torch.full((3, 20, 20), torch.nan))


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(rgb):
    expected = make_detector()(rgb, threshold=0.0)
    on_gpu = make_detector(device="auto", precision="float32")
    assert on_gpu.device.type == "cuda"
    np.testing.assert_allclose(on_gpu(rgb, threshold=0.0).scores, expected.scores, atol=1e-2)
    automatic = make_detector(device="cuda", precision="auto")
    assert automatic.dtype == torch.float16
    np.testing.assert_allclose(automatic([rgb] * 3, threshold=0.0)[2].scores[:20], expected.scores[:20], atol=0.05)
    assert_same(automatic(torch.from_numpy(rgb).permute(2, 0, 1).cuda(), threshold=0.0), automatic(rgb, threshold=0.0))


@pytest.mark.parametrize("shape", [(960, 1280), (961, 1283), (37, 200), (333, 1), (64, 64), (5000, 1200)])
@pytest.mark.parametrize("size_hw", [(64, 64), (640, 640), (352, 608)])
def test_fast_resize_gives_nearly_the_same_pixels(shape, size_hw):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    detector = make_detector(fast_resize=True)
    pixels, size_wh = detector.prepare(image, size_hw)
    assert size_wh == image.size
    difference = np.abs(pixels.astype(int) - resize(image, size_hw))
    assert difference.max() <= 2 and difference.mean() < 0.25
    is_recent = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)  # older ones round otherwise
    assert not is_recent or (shape, size_hw) != ((960, 1280), (640, 640)) or not difference.any()


@pytest.mark.parametrize("shape", [(480, 640), (375, 500), (37, 200)])
def test_the_default_resize_equals_that_of_every_runtime(detector, shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    published = image.resize((128, 128), Image.Resampling.BILINEAR)
    for given in (image, np.asarray(image)):
        pixels, _ = detector.prepare(detector.read(given), (128, 128))
        assert np.array_equal(pixels, np.asarray(published).transpose(2, 0, 1))
        assert np.array_equal(pixels, BaseDetector.prepare(detector, image, (128, 128))[0])
    fast = make_detector(fast_resize=True)
    assert not np.array_equal(fast.prepare(image, (128, 128))[0], pixels)


def test_an_object_that_occurs_several_times_is_read_once(detector, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    file = encoded(Image.fromarray(pixels), format="PNG")
    expected = detector([pixels.copy() for _ in range(6)], threshold=0.0, batch_size=2)
    read, count = detector.read, 0

    def counted(source):
        nonlocal count
        count += 1
        return read(source)

    monkeypatch.setattr(detector, "read", counted)
    for make in (lambda: Image.open(io.BytesIO(file)), lambda: io.BytesIO(file)):
        one, other, count = make(), make(), 0
        found = detector([one, other, one, one, one, other], threshold=0.0, batch_size=2)
        assert count == 2
        for each, right in zip(found, expected, strict=True):
            assert_same(each, right)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_one_after_the_other_with_those_that_cannot_be_read(detector, batch_size):
    good = [np.full((20, 30 + place, 3), 40 * place, np.uint8) for place in range(4)]
    sources = ["a.png", "b.png", good[0], good[1], "c.png", good[2], good[3], "d.png", "e.png"]
    seen = list(detector.detect_each(sources, threshold=0.0, batch_size=batch_size, keep_images=True))
    assert [isinstance(one, InputError) for one in seen] == [isinstance(source, str) for source in sources]
    assert [name in str(seen[place]) for place, name in ((0, "a.png"), (4, "c.png"), (8, "e.png"))] == [True] * 3
    for source, one in zip(sources, seen, strict=True):
        if not isinstance(one, InputError):
            assert np.array_equal(np.asarray(one.image), source)
            assert one.detections.image_size_wh == one.image.size
    assert {one.image for one in detector.detect_each(good)} == {None}
    assert list(detector.detect_each([])) == []
