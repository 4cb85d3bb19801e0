"""Every kind of image gives the same RGB pixels, and the network's input equals the published one."""

import contextlib
import io
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.preprocessing import fitting_size, image_size, load_image, open_image, preprocess, resize

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def rgb():
    """A smooth image that survives JPEG well."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 7, y * 10, (x + y) * 4], axis=2).astype(np.uint8)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_path_bytes_file_pil_and_array_agree(rgb, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    with path.open("rb") as file, Image.open(path) as opened:
        for source in (path, str(path), data, bytearray(data), file, opened, rgb):
            pixels = load_image(source)
            assert pixels.dtype == np.uint8
            assert pixels.flags.writeable
            assert np.array_equal(pixels, rgb)
        assert not file.closed
    assert np.array_equal(np.asarray(open_image(path)), rgb)


def test_result_is_a_copy(rgb):
    load_image(rgb)[:] = 0
    assert rgb.any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(rgb, orientation):
    upright = Image.fromarray(rgb)
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(stored, format=format, exif=exif, **options)
        assert np.array_equal(load_image(data), rgb), format
        assert np.array_equal(load_image(Image.open(io.BytesIO(data))), rgb), format


def test_damaged_exif_does_not_spoil_the_pixels(rgb):
    data = encoded(Image.fromarray(rgb), format="PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert np.array_equal(load_image(data), rgb)  # a warning would be an error


def test_gray_becomes_three_equal_channels(rgb):
    gray = rgb[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, axis=2)
    alpha = Image.fromarray(rgb[:, :, 1])
    with_alpha = Image.merge("LA", (Image.fromarray(gray), alpha))
    for source in (
        gray,
        gray[:, :, None],
        encoded(Image.fromarray(gray), format="PNG"),
        encoded(with_alpha, format="PNG"),
    ):
        assert np.array_equal(load_image(source), expected)


def test_alpha_is_dropped(rgb):
    rgba = np.dstack([rgb, np.zeros((HEIGHT, WIDTH), np.uint8)])
    for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), format="PNG")):
        assert np.array_equal(load_image(source), rgb)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 2))])
def test_palette(transparency):
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 100
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(load_image(encoded(image, format="PNG", **options)), palette[indices])


def test_one_bit():
    bits = np.indices((HEIGHT, WIDTH)).sum(0) % 2 == 0
    expected = np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2)
    for source in (bits, encoded(Image.fromarray(bits), format="PNG"), encoded(Image.fromarray(bits), format="TIFF")):
        assert np.array_equal(load_image(source), expected)


def test_cmyk(rgb):
    cmyk = Image.fromarray(rgb).convert("CMYK")
    assert np.array_equal(load_image(encoded(cmyk, format="TIFF")), rgb)
    assert np.abs(load_image(encoded(cmyk, format="JPEG", quality=95)).astype(int) - rgb).mean() < 4


def test_sixteen_bit_is_scaled_not_clipped():
    gray = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    expected = np.round(gray / 257).astype(np.uint8)
    sources = [gray, Image.fromarray(gray), Image.fromarray(gray.astype(np.int32)), Image.fromarray(gray.astype(">u2"))]
    sources += [encoded(Image.fromarray(gray), format=format) for format in ("PNG", "TIFF")]
    for source in sources:
        pixels = load_image(source)
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert np.array_equal(pixels[:, :, 1], expected)


def test_sixteen_bit_color_array(rgb):
    assert np.array_equal(load_image(rgb.astype(np.uint16) * 257), rgb)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_array_and_file(rgb, dtype):
    assert np.array_equal(load_image((rgb / 255).astype(dtype)), rgb)
    data = encoded(Image.fromarray((rgb[:, :, 0] / 255).astype(np.float32)), format="TIFF")
    assert np.array_equal(load_image(data)[:, :, 0], rgb[:, :, 0])


def test_strided_array(rgb):
    assert np.array_equal(load_image(rgb[::-1, ::2]), rgb[::-1, ::2])
    bgr = rgb[:, :, ::-1]
    assert np.array_equal(load_image(bgr), bgr)


def test_one_pixel_image():
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    assert np.array_equal(load_image(pixel), pixel)
    assert np.array_equal(resize(pixel, (3, 2)), np.broadcast_to(pixel.transpose(2, 0, 1), (3, 3, 2)))


def test_other_channel_counts(rgb):
    six = np.dstack([rgb, rgb])
    assert np.array_equal(load_image(six, num_channels=6), six)
    assert np.array_equal(load_image((six / 255).astype(np.float32), num_channels=6), six)
    assert preprocess(six, (32, 64)).shape == (6, 32, 64)
    assert np.array_equal(preprocess(six, (32, 64))[3:], preprocess(rgb, (32, 64)))
    gray = load_image(rgb[:, :, 0], num_channels=1)
    assert np.array_equal(gray[:, :, 0], rgb[:, :, 0])
    assert preprocess(gray, (32, 64)).shape == (1, 32, 64)
    rgba = Image.fromarray(rgb).convert("RGBA")
    assert load_image(rgba, num_channels=4).shape == (HEIGHT, WIDTH, 4)
    with pytest.raises(InputError, match=r"expected an array \(h, w, 6\)"):
        load_image(rgb, num_channels=6)
    with pytest.raises(InputError, match="expected an image with 5 channels"):
        load_image(rgba, num_channels=5)


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96), (HEIGHT, WIDTH), (8, 8)])
def test_input_equals_published_resize_and_scaling(rgb, size_hw):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = Image.fromarray(rgb)
    expected = functional.pil_to_tensor(functional.resize(image, list(size_hw), antialias=True)).float() / 255
    for source in (rgb, image):
        ours = preprocess(source, size_hw)
        assert (ours.dtype, ours.shape, ours.flags.c_contiguous) == (np.float32, (3, *size_hw), True)
        assert np.array_equal(ours, expected.numpy())


# Pillow 13 and later resize the height first for some of these, for some if only half of the result is asked for
SHAPES = [(960, 1280), (1280, 960), (961, 1283), (375, 500), (500, 375), (37, 2000), (2000, 37), (640, 640), (480, 800)]


@pytest.mark.parametrize(
    "size_hw", [(640, 640), (480, 800), (352, 608), (2000, 32), (601, 640), (640, 601), (333, 335)]
)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (1, 500), (333, 1)])
def test_resizing_in_two_parts_equals_one_pass(shape, size_hw):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize(size_hw[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(resize(pixels, size_hw), whole)
    assert np.array_equal(resize(pixels[:, :, 1:2], size_hw), whole[1:2])


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("shape", [(960, 1280), (375, 500), (640, 640), (2000, 37)])
def test_other_filters_give_the_values_of_pillow(shape, resample):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((640, 640), Image.Resampling(resample))).transpose(2, 0, 1)
    assert np.array_equal(resize(image, (640, 640), resample=resample), expected)


def message_of(source, **options):
    with pytest.raises(InputError) as caught:
        load_image(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_path_names_the_nearest_file(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    assert "Did you mean 'holiday.jpg'?" in message_of(tmp_path / "holidays.jpg")
    assert f"the folder {tmp_path / 'none'} does not exist" in message_of(tmp_path / "none" / "a.jpg")
    assert "got the folder" in message_of(tmp_path)
    assert "download" in message_of("https://example.org/a.jpg")


def test_files_that_are_not_images(tmp_path):
    text, empty = tmp_path / "notes.jpg", tmp_path / "empty.png"
    text.write_text("not an image")
    empty.touch()
    assert f"{text} is not an image" in message_of(text)
    assert f"{empty} is empty" in message_of(empty)
    assert "not an image" in message_of(b"")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path, rgb):
    path = tmp_path / "locked.png"
    Image.fromarray(rgb).save(path)
    path.chmod(0)
    assert "Permission denied" in message_of(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_truncated_files_are_found(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format=format)
    for kept in (len(data) // 8, len(data) // 2, len(data) - 3):
        if format in ("PNG", "TIFF") and kept > len(data) // 2:
            continue  # all pixels are there; only the end mark is missing
        message_of(data[:kept])
    assert load_image(data).shape == (64, 64, 3)


def test_truncated_jpeg_opened_by_the_caller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.jpg"
    data = encoded(Image.fromarray(noise), format="JPEG")
    path.write_bytes(data[: len(data) // 2])
    with Image.open(path) as image:
        message = message_of(image)
    assert str(path) in message
    assert "truncated" in message


def test_decompression_bomb(monkeypatch, rgb):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "too large" in message_of(encoded(Image.fromarray(rgb), format="PNG"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "at least 1x1"),
        (np.zeros((5, 0), np.uint8), "at least 1x1"),
        (np.zeros(5, np.uint8), r"expected an array \(h, w\)"),
        (np.zeros((2, 5, 5, 3), np.uint8), r"got \(2, 5, 5, 3\)"),
        (np.zeros((5, 5, 2), np.uint8), r"got \(5, 5, 2\)"),
        (np.zeros((3, 5, 5), np.uint8), r"channels-first: transpose\(1, 2, 0\)"),
        (np.zeros((5, 5, 3), np.int64), "got int64"),
        (np.full((5, 5, 3), np.nan, np.float32), "got NaN"),
        (np.full((5, 5, 3), 255.0, np.float32), "divide 8-bit values by 255"),
        (np.full((5, 5, 3), -0.5), r"got -0\.5\.\.-0\.5"),
        (np.full((5, 5), np.inf, np.float32), "inf"),
        (np.full((5, 5, 3), None), "got object"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(InputError, match=message):
        load_image(array)


def test_other_bad_sources():
    assert "got int" in message_of(3)
    assert "got list" in message_of([1, 2])
    assert "0x4" in message_of(Image.new("RGB", (0, 4)))
    assert "0..65535" in message_of(Image.fromarray(np.full((2, 2), 70000, np.int32)))
    assert "mode La" in message_of(Image.new("La", (2, 2)))


def test_array_files(rgb, tmp_path):
    file = tmp_path / "picture.NPY"
    for array in (rgb, rgb.astype(np.uint16) * 257, rgb / 255):
        with file.open("wb") as opened:
            np.save(opened, array)
        assert np.array_equal(load_image(file), rgb)
        assert np.array_equal(np.asarray(open_image(str(file))), rgb)
        assert image_size(file) == (WIDTH, HEIGHT)
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))
    assert "expected an array (h, w) or (h, w, channels), got (3,)" in message_of(file)
    with file.open("wb") as opened:
        np.save(opened, np.array([{}]))
    assert "cannot be read as a NumPy array" in message_of(file)
    assert "no image" in message_of(tmp_path / "none.npy")


def test_pages_of_a_tiff_file_are_channels(rgb, tmp_path):
    file = tmp_path / "picture.tif"
    bands = [Image.fromarray(np.ascontiguousarray(rgb[:, :, band])) for band in (0, 1, 2, 1, 0)]
    bands[0].save(file, save_all=True, append_images=bands[1:])
    assert np.array_equal(load_image(file, num_channels=5), rgb[:, :, [0, 1, 2, 1, 0]])
    assert np.array_equal(load_image(file), rgb[:, :, [0, 0, 0]])  # as any reader of images: the first page
    assert "4 channels" in message_of(file, num_channels=4)
    bands[0].save(file, save_all=True, append_images=[bands[1].resize((5, 5))])
    assert "pages used as channels must have the same size" in message_of(file, num_channels=2)


def test_the_size_of_an_image_is_that_of_its_pixels(rgb):
    exif = Image.Exif()
    for orientation in (1, 3, 6, 8):
        exif[0x0112] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            data = encoded(Image.fromarray(rgb), format=kind, exif=exif)
            assert image_size(data) == load_image(data).shape[1::-1]
            with Image.open(io.BytesIO(data)) as image:
                assert image_size(image) == load_image(image).shape[1::-1] == image_size(data)
    assert image_size(rgb) == image_size(Image.fromarray(rgb)) == (WIDTH, HEIGHT)
    with pytest.raises(InputError, match="not an image"):
        image_size(b"text")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on what it skips in a damaged file
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["npy", "tif", "png"]), place=st.integers(0, 250), junk=st.binary(max_size=8))
def test_damaged_files_are_read_or_refused(tmp_path, kind, place, junk):
    file = tmp_path / f"picture.{kind}"
    pixels = np.arange(40, dtype=np.uint8).reshape(5, 8)
    if kind == "npy":
        np.save(file, pixels)
    else:
        Image.fromarray(pixels).save(
            file, **({"save_all": True, "append_images": [Image.new("L", (8, 5))]} if kind == "tif" else {})
        )
    content = file.read_bytes()
    file.write_bytes(content[:place] + junk + content[place + len(junk) :])
    for read in (image_size, load_image, lambda source: load_image(source, num_channels=2)):
        with contextlib.suppress(InputError):
            read(file)


def test_the_size_that_distorts_an_image_least():
    sizes = [(640, 640), (384, 640), (640, 384), (320, 320)]
    assert fitting_size((1080, 1920), sizes) == (384, 640)
    assert fitting_size((1920, 1080), sizes) == (640, 384)
    assert fitting_size((500, 500), sizes) == (640, 640)
    assert fitting_size((400, 410), sizes) == (320, 320)
    assert fitting_size((1, 1), sizes) == (320, 320)
    for image_hw, choice in (((64, 64), []), ((0, 64), sizes)):
        with pytest.raises(InputError, match="at least one network size, as positive heights and widths"):
            fitting_size(image_hw, choice)
