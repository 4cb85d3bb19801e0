"""Reading from one object in several threads."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtdetr.images import ImageSource, image_size, load_image
from rtdetr.images.decode import _locks, only_reader

KINDS = {"PNG": {}, "JPEG": {"quality": 95}, "TIFF": {"compression": "tiff_lzw"}, "GIF": {}}


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest) -> bytes:
    """Large enough that decoding takes longer than starting a thread."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=request.param, **KINDS[request.param])
    return stream.getvalue()


def read_at_once(*sources: ImageSource, times: int = 8) -> list[np.ndarray]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(load_image, sources * times))


def assert_all_equal(found: list[np.ndarray], file: bytes) -> None:
    expected = load_image(file)
    assert all(np.array_equal(each, expected) for each in found)


def test_one_lazily_opened_image(file: bytes) -> None:
    assert_all_equal(read_at_once(Image.open(io.BytesIO(file))), file)


def test_one_file_object(file: bytes, tmp_path: Path) -> None:
    assert_all_equal(read_at_once(io.BytesIO(file)), file)
    path = tmp_path / "image"
    path.write_bytes(file)
    with path.open("rb") as stream:
        assert_all_equal(read_at_once(stream), file)


def test_two_images_opened_from_one_file_object(file: bytes) -> None:
    stream = io.BytesIO(file)
    assert_all_equal(read_at_once(Image.open(stream), Image.open(stream), stream, times=4), file)


def test_the_size_is_read_during_other_reads(file: bytes) -> None:
    stream = io.BytesIO(file)
    with ThreadPoolExecutor(8) as pool:
        sizes = [pool.submit(image_size, stream) for _ in range(8)]
        pixels = [pool.submit(load_image, stream) for _ in range(4)]
    assert {size.result() for size in sizes} == {(800, 600)}
    assert_all_equal([each.result() for each in pixels], file)


def test_locks_are_gone_afterwards_also_after_an_error() -> None:
    held = object()
    lock = only_reader(held, None, held)
    lock.__enter__()
    assert id(held) in _locks
    assert lock.__exit__(KeyError, KeyError(), None) in (None, False)
    assert id(held) not in _locks
