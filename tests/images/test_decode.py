"""Formats that need a plugin, files of several pages, huge images, and decoders that fail in their own ways."""

import contextlib
import functools
import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images import allow_pixels, decode, image_size, load_image, max_pixels, open_image
from rtdetr.images.decode import MAX_PIXELS_VARIABLE, parse_pixels
from tests.images.oriented_files import smooth


@pytest.fixture
def limit(monkeypatch):
    """Puts Pillow's limit and ours back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "")
    return monkeypatch


def encoded(format, **options):
    file = io.BytesIO()
    smooth().save(file, format=format, **options)
    return file.getvalue()


def heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(smooth()).save(file, quality=95)
    return file.getvalue()


def jxl():
    pytest.importorskip("pillow_jxl")
    return encoded("JXL", lossless=True)


@pytest.mark.parametrize(("suffix", "make", "allowed"), [(".heic", heic, 24), (".jxl", jxl, 0)])
def test_a_format_with_a_plugin_is_read(tmp_path, suffix, make, allowed):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(make())
    for source in (path, path.read_bytes()):
        assert image_size(source) == (48, 32)
        assert np.abs(load_image(source).astype(int) - np.asarray(smooth())).max() <= allowed


@pytest.mark.parametrize(("suffix", "make", "package"), [(".heic", heic, "pillow_heif"), (".jxl", jxl, "pillow_jxl")])
def test_without_the_plugin_its_package_is_named(tmp_path, suffix, make, package):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(make())
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from rtdetr.images import load_image\n"
        "from rtdetr.errors import InputError\n"
        "try: load_image(sys.argv[1])\n"
        "except InputError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert f"a{suffix} is a " in result.stdout
    assert f"which needs a decoder: pip install {package.replace('_', '-')}" in result.stdout


@pytest.mark.parametrize(
    ("bands", "extra", "asked", "message"),
    [
        (5, "minisblack", 5, "not an image in a format that Pillow can read; TIFF files with other bands need"),
        (6, "rgb", 6, "expected an image with 6 channels for this model, got"),
    ],
)
def test_without_tifffile_its_package_is_named(tmp_path, bands, extra, asked, message):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 9, bands), np.uint8), photometric=extra, planarconfig="contig")
    assert load_image(path, num_channels=asked).shape == (8, 9, bands)
    program = (
        "import sys, importlib.util; sys.modules['tifffile'] = None\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'tifffile' else find(name)\n"
        "from rtdetr.images import load_image\n"
        "from rtdetr.errors import InputError\n"
        "try: load_image(sys.argv[1], num_channels=int(sys.argv[2]))\n"
        "except InputError as error: print(error)"
    )
    command = [sys.executable, "-c", program, path, str(asked)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert message in said
    assert said.count("pip install tifffile") == 1 and "rtdetr[" not in said


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_the_first_of_several_pages_is_used_with_one_warning(tmp_path, kind, caplog):
    decode._warn_first_page.cache_clear()
    path = tmp_path / f"a.{kind.lower()}"
    smooth().convert("L").save(path, format=kind, save_all=True, append_images=[Image.new("L", (48, 32))])
    for _ in range(2):
        assert open_image(path).size == (48, 32)
    assert [record.message for record in caplog.records] == [
        f"{path} ({kind}) has several pages or frames: the first one is used"
    ]
    assert np.abs(load_image(path)[:, :, 0].astype(int) - np.asarray(smooth().convert("L"))).mean() < 8


def test_only_some_files_with_several_pages_are_named(tmp_path, caplog):
    decode._warn_first_page.cache_clear()
    for number in range(10):
        Image.new("L", (4, 4)).save(tmp_path / f"{number}.tif", save_all=True, append_images=[Image.new("L", (4, 4))])
        open_image(tmp_path / f"{number}.tif")
    assert len(caplog.records) == 6
    assert "further files are not listed" in caplog.records[-1].message


def test_the_limit_of_pixels_can_be_raised_and_lowered(limit, tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (200, 100)).save(path)
    limit.setattr(Image, "MAX_IMAGE_PIXELS", 12_000)
    assert open_image(path).size == (200, 100)  # Pillow warns of it, which is an error here, and refuses twice as many
    limit.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)
    with pytest.raises(InputError, match=r"a\.png is too large: .*; allow it with --max-pixels 1M"):
        open_image(path)
    allow_pixels(20_000)
    assert max_pixels() == 20_000
    assert open_image(path).size == (200, 100)
    assert image_size(path) == (200, 100)
    allow_pixels(19_999)
    with pytest.raises(InputError, match=r"a\.png is too large: .* pixels, more than 19,999; allow it with"):
        image_size(path)


def test_a_slide_gets_a_hint_at_tiles(limit, tmp_path):
    path = tmp_path / "a.pbm"
    path.write_bytes(b"P4\n40000 20000\n")  # the header is enough
    allow_pixels(1000)
    with pytest.raises(InputError, match=r"more than 1,000; allow it with --max-pixels 800M .*cut it into tiles"):
        open_image(path)
    (tmp_path / "b.svs").write_bytes(b"no slide")
    with pytest.raises(InputError, match="whole-slide image, which is not supported: cut it into tiles"):
        open_image(tmp_path / "b.svs")


@pytest.mark.parametrize(
    ("text", "count"), [("1000", 1000), ("250M", 250_000_000), ("1.5g", 1_500_000_000), ("3k", 3000)]
)
def test_numbers_of_pixels(text, count):
    assert parse_pixels(text, source="--max-pixels") == count


@pytest.mark.parametrize("text", ["", "0", "M", "-5", "1e9", "1.2.3M", "٣", "lots"])
def test_bad_numbers_of_pixels(text):
    with pytest.raises(InputError, match=r"^--max-pixels: expected a number of pixels such as"):
        parse_pixels(text, source="--max-pixels")


class Panic(BaseException):
    """What a plugin written in Rust raises."""


Panic.__name__ = "PanicException"


@pytest.mark.parametrize(
    "raised", [RuntimeError("Failed to decode frame 0"), Panic("index out of bounds"), KeyError(3)]
)
def test_every_decoder_error_names_the_file(tmp_path, monkeypatch, raised):
    path = tmp_path / "a.png"
    smooth().save(path)

    def fail(self):
        raise raised

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: "):
        open_image(path)


def test_other_exceptions_are_not_caught(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    smooth().save(path)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_image(path)


def five_bands():
    """TIFF files of five bands, by how they are stored."""
    try:
        import tifffile
    except ImportError:
        return {}
    bands = np.random.default_rng(0).integers(0, 256, (32, 48, 5), np.uint8)
    files = {}
    for name, array, options in (
        ("bands", bands, {"planarconfig": "contig"}),
        ("planes", bands.transpose(2, 0, 1), {"planarconfig": "separate"}),
        ("pages", bands.transpose(2, 0, 1), {}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, array, photometric="minisblack", **options)
        files[f"TIFF {name}"] = file.getvalue()
    return files


_FILES = {
    **({"AVIF": encoded("AVIF")} if ".avif" in Image.registered_extensions() else {}),  # Pillow 11.3
    "WEBP": encoded("WEBP"),
    "JPEG2000": encoded("JPEG2000"),
    "TIFF": encoded("TIFF", compression="tiff_lzw"),
    "MPO": encoded("MPO"),
    **five_bands(),
    "TGA": encoded("TGA"),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(_FILES)),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    junk=st.binary(min_size=6, max_size=6),
)
def test_damaged_files_give_the_librarys_error(limit, kind, places, junk):
    data = bytearray(_FILES[kind])
    for place, byte in zip(places, junk, strict=False):
        data[int(place * (len(data) - 1))] = byte
    allow_pixels(10_000_000)
    for read in (open_image, image_size, functools.partial(load_image, num_channels=5)):
        with contextlib.suppress(InputError):
            read(bytes(data))


def test_a_damaged_jpeg_xl_file_is_called_damaged(tmp_path):
    whole = jxl()
    for content in (whole[: len(whole) // 2], whole[:40] + bytes(60) + whole[100:]):
        (tmp_path / "a.jxl").write_bytes(content)
        with pytest.raises(InputError) as caught:
            open_image(tmp_path / "a.jxl")
        assert str(caught.value) == f"{tmp_path}/a.jxl cannot be read as an image: it is damaged or truncated"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_a_file_that_is_cut_off_in_its_header_is_called_damaged(tmp_path, kind):
    (tmp_path / "a").write_bytes(encoded(kind)[:14])
    with pytest.raises(InputError, match=r"a begins like a (PNG|TIFF|WebP|GIF) file but is damaged or truncated"):
        open_image(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"no image at all")
    with pytest.raises(InputError, match="a is not an image in a format that Pillow can read"):
        open_image(tmp_path / "a")


@pytest.mark.parametrize("kind", ["bands", "planes"])
def test_a_cut_off_tiff_file_of_many_bands_is_called_damaged(kind):
    whole = five_bands().get(f"TIFF {kind}") or pytest.skip("tifffile is not installed")
    assert load_image(whole, num_channels=5).shape == (32, 48, 5)
    for num_channels in (3, 5):
        with pytest.raises(InputError, match="begins like a TIFF file but is damaged or truncated"):
            load_image(whole[: len(whole) // 2], num_channels=num_channels)


def test_unreadable_channels_are_an_error(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 9, 5), np.uint8), photometric="rgb", planarconfig="contig")
    monkeypatch.setattr(tifffile, "TiffFile", lambda stream: 1 / 0)  # as damage makes it fail
    with pytest.raises(
        InputError, match=r"a\.tif has 5 channels according to its header, but only [34] can be read: it is damaged"
    ):
        load_image(path, num_channels=5)
    pages = five_bands()["TIFF pages"]
    with pytest.raises(InputError, match="for this model, got the given image with 1 in each of 5 pages"):
        load_image(pages, num_channels=6)


def test_damaged_metadata_is_ignored_silently():
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "x" * 40, 1
    data = bytearray(encoded("JPEG", exif=exif.tobytes()))
    at = data.index(b"Exif\0\0") + 6
    data[at + 8 : at + 10] = b"\xff\0"  # more tags than there are
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(data)) as image:
            image.getexif()
        assert any("Corrupt EXIF data" in str(one.message) for one in told)
        told.clear()
        assert load_image(bytes(data)).shape == (32, 48, 3)
    assert told == []


def test_libtiff_does_not_write_to_the_terminal(tmp_path):
    """Its lines go past Python, so a process of its own shows them."""
    good = _FILES["TIFF"]
    for number in range(40):
        damaged = bytearray(good)
        damaged[8 + number * 7 : 12 + number * 7] = b"\xff\xfe\xfd\xfc"
        (tmp_path / f"{number}.tif").write_bytes(damaged)
    program = (
        "import sys, pathlib\n"
        "from rtdetr.images import load_image\nfrom rtdetr.errors import InputError\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: load_image(path)\n    except InputError: print('refused')"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout.count("refused") > 3
    assert result.stderr == ""


def test_the_limit_reaches_other_processes(limit):
    allow_pixels(1234)
    program = "from rtdetr.images import max_pixels; print(max_pixels())"
    environment = {**os.environ}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).strip() == "1234"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({256: 40_000, 257: 40_000}, "too large: 40000x40000 pixels"),
        ({256: 12_000, 257: 12_000}, "bands.tif"),
    ],
)
def test_a_header_with_a_huge_size_allocates_no_memory(changes, said, tmp_path, monkeypatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "bands.tif"
    tifffile.imwrite(file, np.zeros((20, 20, 5), np.uint16))
    with tifffile.TiffFile(file, mode="r+") as tiff:
        for code, value in changes.items():
            tiff.pages.first.tags[code].overwrite(value)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page: pytest.fail(f"{page.nbytes} bytes are reserved"))
    with pytest.raises(InputError, match=said):
        load_image(file, num_channels=5)
