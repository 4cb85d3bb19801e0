import numpy as np
import pytest
import torch

from rtdetr.data.mosaic import draw_grid, mixup
from rtdetr.data.mosaic import mosaic as mosaic_of
from rtdetr.data.schedule import EpochPlan
from rtdetr.data.transforms import Objects, Sample

PLAN = EpochPlan(strong=True, size_hw=(160, 160), batch_sizes_hw=((160, 160),))


def picture(pixels: np.ndarray, *boxes_xyxy: tuple[float, ...], label: int = 0) -> tuple[np.ndarray, Objects]:
    boxes = np.array(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    height, width = pixels.shape[:2]
    return pixels, Objects((width, height), boxes, np.full(len(boxes), label))


def mosaic(pictures: list[tuple[np.ndarray, Objects]], *, plan: EpochPlan, rng: np.random.Generator) -> Sample:
    """What training makes of four images."""
    pixels, images = zip(*pictures, strict=True)
    return mosaic_of(pixels, images, draw_grid(images, plan=plan, rng=rng), plan=plan, rng=rng)


def plain(width: int, height: int, value: int, *, channels: int = 3) -> np.ndarray:
    return np.full((height, width, channels), value, np.uint8)


@pytest.mark.parametrize("size_hw", [(160, 160), (96, 192)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_follow_the_pixels(size_hw, flip):
    # each image has one bright rectangle; the hull of its turned corners must hold it, with little room to spare
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for shown in range(4):
            pictures = []
            for tile in range(4):
                pixels = plain(*((300, 200), (200, 200), (90, 240), (120, 80))[tile], 0)
                height, width = pixels.shape[:2]
                box = (width // 4, height // 3, width // 4 * 3, height // 3 * 2)
                if tile == shown:
                    pixels[box[1] : box[3], box[0] : box[2]] = 255
                pictures.append(picture(pixels, box, label=tile))
            plan = PLAN._replace(size_hw=size_hw, flip=flip)
            state = rng.bit_generator.state
            result, target = mosaic(pictures, plan=plan, rng=rng)
            if shown < 3:
                rng.bit_generator.state = state  # the same arrangement for each tile
            # above the gray that a lower contrast gives the black surroundings
            bright = result.max(axis=2).astype(int) > (int(result.max()) + int(result.min())) // 2
            found = target["boxes"][target["labels"] == shown]
            if len(found) == 0:
                assert bright.sum() < 40
                continue
            cx, cy, w, h = (found[0] * torch.tensor([size_hw[1], size_hw[0]] * 2)).tolist()
            if min(w, h) < 6:
                continue
            rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            got = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(got, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], atol=2.6)


def test_four_images_are_seen_each_in_its_place_and_the_rest_is_black(monkeypatch):
    monkeypatch.setattr("rtdetr.data.mosaic.draw_steps", lambda rng, num_channels: [])  # colors stay as they are
    hues = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)], np.uint8)
    rows, columns = np.mgrid[:160, :160] + 0.5
    for seed in range(40):
        pictures = [picture(np.tile(hue, (100, 100, 1)), (0, 0, 100, 100), label=i) for i, hue in enumerate(hues)]
        drawn = mosaic(pictures, plan=PLAN._replace(flip=0.0), rng=np.random.default_rng(seed))
        assert drawn.pixels.shape == (160, 160, 3)
        assert drawn.pixels.dtype == np.uint8
        assert drawn.target["labels"].tolist() == [0, 1, 2, 3]
        middles, anywhere = [], np.zeros((160, 160), bool)
        for hue, (cx, cy, w, h) in zip(hues, (drawn.target["boxes"] * 160).tolist(), strict=True):
            seen = (drawn.pixels == hue).all(axis=2)
            inside = (abs(columns - cx) < w / 2 + 1.5) & (abs(rows - cy) < h / 2 + 1.5)
            assert not (seen & ~inside).any()
            assert seen.sum() > 0.5 * w * h  # a square, turned by 10 degrees, fills three quarters of its hull
            anywhere |= inside
            middles.append((columns[seen].mean(), rows[seen].mean()))
        assert not drawn.pixels[~anywhere].any()
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = middles
        assert max(x0, x2) < min(x1, x3) and max(y0, y1) < min(y2, y3)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(channels):
    rng = np.random.default_rng(0)
    pictures = [picture(rng.integers(0, 256, (30, 40, channels), dtype=np.uint8), (2, 2, 30, 20)) for _ in range(4)]
    sample = mosaic(pictures, plan=PLAN, rng=rng)
    assert sample.pixels.shape == (160, 160, channels)
    assert sample.pixels.std() > 10


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (500, 300)])
def test_odd_sizes_give_valid_samples(size):
    width, height = size
    count = 0
    for seed in range(20):
        pictures = [picture(plain(width, height, 200), (0, 0, width, height), (0, 0, 1, 1)) for _ in range(4)]
        pixels, target = mosaic(pictures, plan=PLAN, rng=np.random.default_rng(seed))
        assert pixels.shape == (160, 160, 3)
        centers, sides = target["boxes"].split(2, dim=1)
        assert (centers - sides / 2 >= -1e-6).all()
        assert (centers + sides / 2 <= 1 + 1e-6).all()
        assert (sides * 160 >= 0.999 - 1e-4).all()
        count += len(target["boxes"])
    assert count >= 20 * 4  # the box over the whole image is never lost


def test_the_same_generator_gives_the_same_sample():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    pictures = [picture(pixels, (5, 5, 40, 40), label=i) for i in range(4)]
    first, again, other = (mosaic(pictures, plan=PLAN, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert torch.equal(first.target["boxes"], again.target["boxes"])
    assert not np.array_equal(first.pixels, other.pixels)


def test_one_image_is_not_blended_with_itself():
    images, targets = torch.rand(1, 3, 8, 8), [{"labels": torch.tensor([2]), "boxes": torch.rand(1, 4)}]
    blended, same = mixup(images, targets, share=0.5)
    assert blended is images
    assert same is targets
