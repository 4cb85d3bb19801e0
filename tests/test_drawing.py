"""Annotated images: objects and labels stay visible, and unusual boxes do not break the drawing."""

import itertools

import numpy as np
import pytest
from PIL import Image

from rtdetr.detections import Detections
from rtdetr.drawing import class_color, draw
from rtdetr.errors import InputError

NAMES = ("cat", "dog", "a name that is far too long for any picture of this size and goes on and on", "Übergröße", "猫")
BACKGROUND = (128, 128, 128)


def make(boxes, labels=None, scores=None, size=(200, 150)):
    count = len(boxes)
    scores = np.linspace(0.9, 0.6, count) if scores is None else scores
    return Detections(boxes, scores, labels or [0] * count, NAMES, size)


def drawn(found, **options):
    return np.asarray(draw(Image.new("RGB", found.image_size_wh, BACKGROUND), found, **options))


def changed(pixels):
    return (pixels != BACKGROUND).any(axis=2)


def test_the_frame_is_around_the_object_in_its_color():
    pixels = drawn(make([[50, 60, 120, 110]], labels=[1]))
    color = class_color(1)
    assert tuple(pixels[85, 49]) == tuple(pixels[85, 120]) == tuple(pixels[110, 80]) == color
    inside = changed(pixels)[60:110, 50:120]
    assert not inside[2:-2].any() and not inside[:, 2:-2].any()  # but for the round corners nothing is hidden


def test_the_label_is_beside_the_object():
    covered = changed(drawn(make([[50, 60, 120, 110]])))
    assert covered[48:59, 52:90].all()
    assert not covered[:45].any() and not covered[112:].any()


def test_without_detections_the_image_is_unchanged():
    assert not changed(drawn(make([]))).any()


def test_the_source_is_not_changed():
    image = Image.new("RGB", (200, 150), BACKGROUND)
    draw(image, make([[50, 60, 120, 110]]))
    assert np.asarray(image).std() == 0


def test_scores_can_be_left_out():
    with_scores, without = (changed(drawn(make([[50, 60, 120, 110]]), show_scores=s)).sum() for s in (True, False))
    assert without < with_scores


def test_a_small_object_stays_visible_beside_a_label():
    found = make([[20, 60, 180, 140], [30, 45, 38, 52]])  # the small one stands where the label would be
    covered = changed(drawn(found))
    assert not covered[46:51, 31:37].any()


def test_labels_of_equal_boxes_do_not_cover_each_other():
    colors = [tuple(c) for c in drawn(make([[60, 60, 140, 110]] * 2, labels=[0, 1])).reshape(-1, 3)]
    first, second = colors.count(class_color(0)), colors.count(class_color(1))
    assert min(first, second) > 300


def test_the_best_is_on_top():
    pixels = drawn(make([[50, 60, 120, 110]] * 2, labels=[1, 0]))
    assert tuple(pixels[85, 49]) == class_color(1)


@pytest.mark.parametrize("size", [(64, 48), (2000, 1500)])
def test_lines_scale_with_the_image(size):
    width, height = size
    found = make([[width * 0.3, height * 0.4, width * 0.8, height * 0.8]], size=size)
    row = changed(drawn(found))[round(height * 0.6)]
    assert row.sum() / 2 == pytest.approx(max(1, np.sqrt(width * height) / 220), abs=0.5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 400), (400, 5), (64, 48), (200, 150)])
def test_unusual_boxes_are_drawn_inside_the_image(size):
    width, height = size
    boxes = [
        [0, 0, width, height],
        [-50, -50, width + 50, height + 50],
        [width / 2, height / 2, width / 2 + 1, height / 2 + 1],  # one pixel
        [width / 2, height / 2, width / 2, height / 2],  # nothing
        [width - 1, height - 1, width, height],
        [0, 0, 1, 1],
        [-30, -30, -10, -10],  # outside
        [width + 10, height + 10, width + 30, height + 30],
        [1e9, -1e9, 1e9, 1e9],
    ]
    pixels = drawn(make(boxes, labels=[i % 5 for i in range(len(boxes))], size=size))
    assert pixels.shape == (height, width, 3)
    assert changed(pixels).any()


def test_tiny_images_have_no_labels():
    pixels = drawn(make([[4, 4, 16, 16]], size=(20, 19)))
    assert not changed(pixels)[5:15, 5:15].any()
    assert not changed(pixels)[:2].any()


def test_many_labels_leave_the_image_visible():
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 500, (200, 2))
    found = make(np.hstack([low, low + generator.uniform(10, 100, (200, 2))]), size=(640, 480))
    assert changed(drawn(found)).mean() < 0.7


def test_given_sizes_are_used():
    found = make([[50, 60, 120, 110]])
    assert changed(drawn(found, line_width=7))[85, 40:60].sum() == 6  # an eighth of the box at most
    small, large = (changed(drawn(found, font_size=size)).sum() for size in (10, 30))
    assert large > 2 * small


def test_colors_are_stable_and_far_apart():
    assert class_color(0) == class_color(0) == (67, 194, 81)
    near = [np.subtract(class_color(i), class_color(j)) for i, j in itertools.combinations(range(12), 2)]
    assert min(np.abs(d).sum() for d in near) > 60
    assert len({class_color(i) for i in range(365)}) > 360
    neighbors = [np.abs(np.subtract(class_color(i), class_color(i + 1))).sum() for i in range(365)]
    assert min(neighbors) > 130


def test_text_contrast():
    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.divide(color, 255)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05

    from rtdetr.drawing import _text_color

    for label in range(80):
        background = class_color(label)
        ratio = luminance(_text_color(background)) / luminance(background)
        assert max(ratio, 1 / ratio) > 4.5  # WCAG AA
    assert _text_color((0, 0, 90)) == (255, 255, 255)


def test_wrong_image():
    with pytest.raises(InputError, match="an image of 200x150 pixels, got one of 150x200"):
        draw(Image.new("RGB", (150, 200)), make([]))


def test_wrong_font(tmp_path):
    (tmp_path / "font.ttf").write_text("no font")
    with pytest.raises(InputError, match=r"cannot read the font .*font\.ttf"):
        drawn(make([[50, 60, 120, 110]]), font=tmp_path / "font.ttf")
