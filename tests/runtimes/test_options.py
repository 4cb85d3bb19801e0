"""Python and NumPy numbers are accepted, everything else is refused by name."""

import numpy as np
import pytest

from rtdetr.errors import ConfigError, InputError
from rtdetr.runtimes.options import is_share, multiples_of_32, whole_number


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5), np.array(5)])
def test_valid_counts(value):
    number = whole_number(value, "batch_size")
    assert number == 5 and type(number) is int


@pytest.mark.parametrize("value", [None, 5.0, np.float32(5), 0, -1, True, "5", [5]])
def test_invalid_counts(value):
    with pytest.raises(InputError, match=r"^max_detections must be an integer of at least 1, got "):
        whole_number(value, "max_detections")
    with pytest.raises(ConfigError):
        whole_number(value, "num_threads", error=ConfigError)


@pytest.mark.parametrize("size_hw", [(64, 96), [64, 96], (np.int64(64), np.int32(96)), np.array([64, 96])])
def test_valid_sizes(size_hw):
    found = multiples_of_32(size_hw)
    assert found == (64, 96) and [type(side) for side in found] == [int, int]


@pytest.mark.parametrize("size_hw", [64, None, (64,), (64, 96, 3), (64.0, 96), (True, 64), "64x96", "64", (0, 64), {}])
def test_invalid_sizes(size_hw):
    with pytest.raises(InputError, match=r"expected the size as \(height, width\) in pixels"):
        multiples_of_32(size_hw)


def test_shares():
    assert all(map(is_share, (0, 1, 0.5, np.float32(0.5), np.array(0.5), True)))
    assert not any(map(is_share, (None, "0.5", b"0", 1.5, -1, float("nan"), [0.5], np.zeros(2), 10**400)))
