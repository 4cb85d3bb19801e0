import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchvision.transforms import v2

from rtdetr.data.colors import distort, draw_steps

THEIRS = {
    "brightness": v2.functional.adjust_brightness,
    "contrast": v2.functional.adjust_contrast,
    "saturation": v2.functional.adjust_saturation,
    "hue": v2.functional.adjust_hue,
}
LIMITS = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}


def theirs(pixels: np.ndarray, name: str, factor: float) -> np.ndarray:
    changed = THEIRS[name](torch.from_numpy(pixels.copy()).permute(2, 0, 1), factor)
    return changed.permute(1, 2, 0).numpy()


def images(seed: int = 0) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, -1, 3)
    return {"noise": noise, "dark": noise // 9, "cube": cube, "one pixel": np.array([[[200, 100, 7]]], np.uint8)}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("content", images())
def test_each_operation_is_within_a_level_of_torchvisions(name, content):
    pixels = images()[content]
    for factor in (*LIMITS[name], *np.linspace(*LIMITS[name], 8)):
        ours = distort(pixels, [(name, float(factor))]).astype(int)
        assert np.abs(ours - theirs(pixels, name, float(factor))).max() <= 1, factor


@settings(max_examples=60, deadline=None)
@given(
    pixels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    factor=st.floats(-0.05, 0.05),
)
def test_hue_keeps_the_lightest_and_the_darkest_channel(pixels, factor):
    turned = distort(pixels, [("hue", factor)])
    np.testing.assert_array_equal(turned.max(axis=2), pixels.max(axis=2))
    np.testing.assert_array_equal(turned.min(axis=2), pixels.min(axis=2))
    assert np.abs(turned.astype(int) - theirs(pixels, "hue", factor)).max() <= 1


def test_a_chain_is_that_of_torchvision_on_a_large_image():
    # larger than the band that is worked on and the sample that contrast looks at
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (1, 3, 10, 8)).astype(np.float32))
    pixels = torch.nn.functional.interpolate(coarse, size=(500, 400), mode="bilinear")[0].permute(1, 2, 0)
    pixels = pixels.to(torch.uint8).numpy()
    steps = [("brightness", 1.1), ("saturation", 0.6), ("hue", 0.04), ("contrast", 1.4), ("order", [2, 0, 1])]
    expected = pixels
    for name, factor in steps[:4]:
        expected = theirs(expected, name, factor)
    difference = distort(pixels, steps).astype(int) - expected[:, :, [2, 0, 1]]
    assert np.abs(difference).max() <= 8  # each operation adds a level, and contrast stretches them
    assert np.abs(difference).mean() < 1


def test_steps_are_drawn_like_torchvisions():
    rng = np.random.default_rng(0)
    drawn = [draw_steps(rng) for _ in range(2000)]
    for name, (low, high) in LIMITS.items():
        factors = [value for steps in drawn for step, value in steps if step == name]
        assert 900 < len(factors) < 1100
        assert low <= min(factors) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(factors) <= high
    names = [[step for step, _ in steps] for steps in drawn]
    both = [row.index("contrast") < row.index("hue") for row in names if {"contrast", "hue"} <= set(row)]
    assert 0.4 < np.mean(both) < 0.6
    assert 900 < sum("order" in row for row in names) < 1100
    assert all(row[-1] == "order" for row in names if "order" in row)
    assert all(row[0] == "brightness" for row in names if "brightness" in row)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_keep_their_meaning(channels):
    rng = np.random.default_rng(0)
    assert {name for _ in range(50) for name, _ in draw_steps(rng, num_channels=channels)} == {"brightness", "contrast"}
    pixels = rng.integers(0, 256, (20, 30, channels), dtype=np.uint8)
    lower = distort(pixels, [("contrast", 0.5), ("brightness", 0.9)])
    assert lower.shape == pixels.shape
    assert lower.std() < 0.6 * pixels.std()


def test_without_steps_the_image_is_unchanged():
    pixels = images()["noise"]
    before = pixels.copy()
    assert distort(pixels, []) is pixels
    distort(pixels, [("brightness", 1.1), ("order", [1, 2, 0])])
    np.testing.assert_array_equal(pixels, before)
