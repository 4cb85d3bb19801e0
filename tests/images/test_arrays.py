"""Pixels in arrays and tensors of every type."""

import logging

import numpy as np
import pytest
import torch

from rtdetr.errors import InputError
from rtdetr.images import load_image
from rtdetr.images.arrays import _warn_dark, tensor_array

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", [">u2", "<u2"])
def test_byte_order(kind: str) -> None:
    np.testing.assert_array_equal(load_image((PIXELS.astype(np.uint16) * 257).astype(kind)), PIXELS)


@pytest.mark.parametrize("kind", [">f4", "<f4", ">f8", ">f2"])
def test_byte_order_of_floats(kind: str) -> None:
    np.testing.assert_array_equal(load_image((PIXELS / 255).astype(kind)), PIXELS)


def test_eight_bit_values_in_sixteen_bits_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_dark.cache_clear()
    with caplog.at_level(logging.WARNING):
        load_image(np.zeros((2, 2), np.uint16))
        load_image(np.full((2, 2), 256, np.uint16))
        assert not caplog.messages
        assert load_image(PIXELS.astype(np.uint16)).max() == 1
        load_image(PIXELS.astype(np.uint16))
    assert len(caplog.messages) == 1
    assert "store or pass them as uint8" in caplog.messages[0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_tensors(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    given = (tensor / 255).to(dtype).requires_grad_() if dtype.is_floating_point else tensor
    np.testing.assert_array_equal(load_image(tensor_array(given)), PIXELS)
    np.testing.assert_array_equal(load_image(tensor_array(tensor > 100)), (PIXELS > 100) * 255)


@pytest.mark.parametrize(
    ("shape", "channels", "said"),
    [
        ((5, 7, 3), 3, "got (5, 7, 3); it looks channels-last: permute(2, 0, 1)"),
        ((5, 7), 3, "expected an image tensor (channels, height, width) with 1 or 3 or 4 channels, got (5, 7)"),
        ((2, 5, 7), 3, "got (2, 5, 7)"),
        ((3, 5, 7), 6, "with 6 channels, got (3, 5, 7)"),
        ((5, 7, 6), 6, "got (5, 7, 6); it looks channels-last"),
    ],
)
def test_the_shape_in_a_message_is_the_one_given(shape: tuple[int, ...], channels: int, said: str) -> None:
    with pytest.raises(InputError) as caught:
        tensor_array(torch.zeros(shape), num_channels=channels)
    assert said in str(caught.value)
