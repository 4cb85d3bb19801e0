"""Every reader returns the same upright pixels, and an image that was read is not rotated again."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from rtdetr.data.doctor.images import examine, image_of
from rtdetr.detections import Detections
from rtdetr.drawing import draw
from rtdetr.hf.image_inputs import image_array
from rtdetr.images import image_size, load_image, open_image, read_image, viewable
from tests.images.oriented_files import FORMATS, ORIENTATIONS, smooth, stored, turned_file

EVERY = [(kind, orientation) for kind in FORMATS for orientation in ORIENTATIONS]


def differs(a, b):
    """Largest difference; JPEG's is small."""
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("kind", "orientation"), EVERY)
def test_every_reader_gives_the_upright_image_once(tmp_path, kind, orientation, mode):
    image = smooth().convert(mode)
    expected = np.asarray(image.convert("RGB"))
    path = tmp_path / f"a{FORMATS[kind]}"
    path.write_bytes(turned_file(image, orientation, kind))
    allowed = 8 if kind in ("JPEG", "MPO") else 1 if kind == "WEBP" else 0  # WebP has no gray images
    assert image_size(path) == (48, 32)
    found = open_image(path)
    for again in (found, open_image(found), open_image(open_image(found)), open_image(ImageOps.exif_transpose(found))):
        assert again.size == (48, 32)
        assert again.getexif().get(0x0112) in (None, 1)
        assert differs(again, expected) <= allowed
    assert np.array_equal(open_image(found), found)
    for pixels in (load_image(path), load_image(found), viewable(path), read_image(path), image_array(path)):
        assert np.array_equal(pixels, found)
    gray = load_image(path, num_channels=1)
    assert gray.shape == (32, 48, 1)
    assert differs(gray[:, :, 0], image.convert("L")) <= allowed
    unread = open_image(path, mode=None)
    assert unread.size == (48, 32)
    assert unread.getexif().get(0x0112) in (None, 1)
    turned = load_image(path, upright=False)
    assert differs(turned, stored(image, orientation).convert("RGB")) <= allowed
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), ("a",), (48, 32))
    for source in (path, found, path.read_bytes()):
        assert np.array_equal(draw(source, nothing), found)


@pytest.mark.parametrize(("kind", "orientation"), EVERY)
def test_the_doctor_knows_both_sizes(tmp_path, kind, orientation):
    path = tmp_path / f"a{FORMATS[kind]}"
    path.write_bytes(turned_file(smooth(), orientation, kind))
    facts = examine(path)
    assert facts.usable
    assert facts.upright_wh == image_of(path).size == (48, 32)
    assert facts.stored_wh == ((32, 48) if orientation >= 5 else (48, 32))
    assert facts.orientation == orientation
    upright = tmp_path / "upright.png"
    smooth().save(upright)
    assert differs(facts.thumb, examine(upright).thumb) <= 8


def test_an_image_that_the_caller_opened_is_left_as_it_is(tmp_path):
    file = io.BytesIO(turned_file(smooth(), 6, "PNG"))
    with Image.open(file) as given:
        assert open_image(given).size == (48, 32)
        assert given.size == (32, 48)
        assert given.getexif()[0x0112] == 6
        kept = given.convert("RGB")  # Pillow keeps the tag in its metadata, and the pixels lie on their side
    assert open_image(kept).size == (48, 32)
    assert kept.size == (32, 48)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pages_and_bands_of_tiff_files_are_rotated_together(tmp_path, orientation):
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(0).integers(0, 65536, (5, 8, 5), dtype=np.uint16)
    as_stored = {5: levels.transpose(1, 0, 2), 6: np.rot90(levels, 1), 7: np.rot90(levels.transpose(1, 0, 2), 2)}
    as_stored |= {1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1], 8: np.rot90(levels, -1)}
    bands = np.ascontiguousarray(as_stored[orientation])
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="contig", extratags=tag)
    tifffile.imwrite(
        tmp_path / "planes.tif",
        bands.transpose(2, 0, 1),
        photometric="minisblack",
        planarconfig="separate",
        extratags=tag,
    )
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for band in range(5):
            writer.write(
                np.ascontiguousarray(bands[:, :, band]), photometric="minisblack", extratags=tag, metadata=None
            )
    expected = load_image(levels, num_channels=5)
    for name in ("bands.tif", "planes.tif", "pages.tif"):
        assert image_size(tmp_path / name) == (8, 5)
        assert np.array_equal(load_image(tmp_path / name, num_channels=5), expected), name
        as_in_file = load_image(tmp_path / name, num_channels=5, upright=False)
        assert np.array_equal(as_in_file, load_image(bands, num_channels=5)), name
        shown = viewable(tmp_path / name)
        assert np.array_equal(shown, expected[:, :, :3] if name != "pages.tif" else expected[:, :, [0, 0, 0]])
