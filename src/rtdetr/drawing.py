"""Draw detections on an image: one color per class, and readable labels that avoid objects and other labels.

Lines and text scale with the image and, for small objects, with the object. Nothing is drawn outside the image.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rtdetr.detections import Detection, Detections
from rtdetr.errors import InputError
from rtdetr.fonts import FontPath, TextLine, cut, lay_out, shown_names
from rtdetr.images import ImageSource, viewable

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are exclusive

_SMOOTHING = 4  # curves are drawn this many times larger, then reduced
_GOLDEN_ANGLE = 137.50776405
_SMALLEST_FONT = 10.0


class _Style(NamedTuple):
    """Sizes are in pixels. `font_size` is the maximum; small objects get smaller text unless `fixed`."""

    line_width: int
    font_size: float
    fixed: bool
    font: FontPath
    names: Sequence[str]
    show_scores: bool
    colors: Sequence[Color] | None

    def color(self, label: int) -> Color:
        return self.colors[label] if self.colors else class_color(label)


class _Label(NamedTuple):
    """A text on a colored background."""

    line: TextLine
    margin: int
    area: Rectangle
    color: Color


def draw(
    image: ImageSource,
    detections: Detections,
    *,
    show_scores: bool = True,
    line_width: int | None = None,
    font_size: int | None = None,
    font: FontPath = None,
    colors: Sequence[Color] | None = None,
) -> Image.Image:
    """Return a copy of the image with boxes and labels, the highest score on top.

    Args:
        image: the image of the detections, in any form that `load_image` accepts. With more than four channels, the
            first three are shown; with two, the first.
        detections: what to draw; for fewer, use `detections.above(0.6)`.
        show_scores: write the score after the class name.
        line_width: line width of the boxes in pixels; None: by image size.
        font_size: in pixels; None: by image and object size.
        font: .ttf or .otf file for class names. Missing glyphs come from an installed font; if there is none, the name
            is replaced by "class 7", and a warning says once what to install.
        colors: one color per class, RGB in 0..255; None: `class_color`.

    Raises:
        InputError: the image size differs from that of the detections, or the font file cannot be read.
    """
    canvas = viewable(image).copy()
    if canvas.size != detections.image_size_wh:
        width, height = detections.image_size_wh
        raise InputError(
            f"the detections belong to an image of {width}x{height} pixels, got one of {canvas.width}x{canvas.height}"
        )
    scale = math.sqrt(canvas.width * canvas.height)
    # from about 20 labels on, text shrinks, so that all labels together cover at most a sixth of the image
    style = _Style(
        line_width=line_width or max(1, round(scale / 220)),
        font_size=font_size or max(_SMALLEST_FONT, scale * min(1 / 29, math.sqrt(0.02 / max(len(detections), 1)))),
        fixed=font_size is not None,
        font=font,
        names=shown_names(detections.names, font=font),
        show_scores=show_scores,
        colors=colors,
    )
    rows = list(detections)
    frames = [_frame(row.box_xyxy, style.line_width, canvas.size) for row in rows]
    # in an image that is only a few pixels high, labels would hide everything
    readable = canvas.height >= 2 * style.font_size
    labels = _place_labels(rows, [outer for outer, _ in frames], style, canvas.size) if readable else []
    for row, (outer, width) in zip(reversed(rows), reversed(frames), strict=True):
        _draw_frame(canvas, outer, width, style.color(row.label))
    for label in reversed(labels):
        _draw_label(canvas, label)
    return canvas


@lru_cache(maxsize=1024)
def class_color(label: int) -> Color:
    """Return the RGB color (0..255) of a class: the same in every image, and distinct from neighboring classes.

    Hues are a golden angle apart, so that consecutive classes spread over the color circle. Lightness and chroma
    alternate to distinguish classes of similar hue. Source of the color space: CSS Color 4, OKLCH.
    """
    lightness, chroma = ((0.72, 0.19), (0.62, 0.22), (0.82, 0.15))[label % 3]
    return _oklch_to_rgb(lightness, chroma, math.radians(145 + label * _GOLDEN_ANGLE))


def _oklch_to_rgb(lightness: float, chroma: float, hue: float) -> Color:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (min(max(value, 0.0), 1.0) for value in linear)
    gamma = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in (red, green, blue)]
    return round(255 * gamma[0]), round(255 * gamma[1]), round(255 * gamma[2])


def _text_color(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast. Source: WCAG 2.1, relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _frame(
    box_xyxy: tuple[float, float, float, float], line_width: int, size_wh: tuple[int, int]
) -> tuple[Rectangle, int]:
    """Return outer edge and line width of a box; the line goes around the object, and is thinner for small ones."""
    x1, y1, x2, y2 = box_xyxy
    width = max(1, min(line_width, round(min(x2 - x1, y2 - y1) / 8)))
    (left, right), (top, bottom) = (
        (min(max(math.floor(low) - width, 0), limit - 1), min(max(math.ceil(high) + width, 1), limit))
        for low, high, limit in ((x1, x2, size_wh[0]), (y1, y2, size_wh[1]))
    )
    return (left, top, max(right, left + 1), max(bottom, top + 1)), width


def _draw_frame(canvas: Image.Image, outer: Rectangle, width: int, color: Color) -> None:
    """Draw a rectangle with smooth round corners, from four corner tiles and four straight lines."""
    left, top, right, bottom = outer
    tile = min(2 * width + 1, (right - left) // 2, (bottom - top) // 2)
    if tile > 0:
        corners = _corners(tile, width)
        for x, column in ((left, 0), (right - tile, tile)):
            for y, row in ((top, 0), (bottom - tile, tile)):
                canvas.paste(color, (x, y, x + tile, y + tile), corners.crop((column, row, column + tile, row + tile)))
    horizontal, vertical = min(width, bottom - top), min(width, right - left)
    canvas.paste(color, (left + tile, top, right - tile, top + horizontal))
    canvas.paste(color, (left + tile, bottom - horizontal, right - tile, bottom))
    canvas.paste(color, (left, top + tile, left + vertical, bottom - tile))
    canvas.paste(color, (right - vertical, top + tile, right, bottom - tile))


@lru_cache(maxsize=64)
def _corners(tile: int, width: int) -> Image.Image:
    """Return the coverage (0..255) of a round frame of 2 x 2 tiles, which are the corners of larger frames."""
    side, line = 2 * tile * _SMOOTHING, width * _SMOOTHING
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    pen.rounded_rectangle((0, 0, side - 1, side - 1), radius=side // 2, fill=255)
    if side > 2 * line:
        pen.rounded_rectangle((line, line, side - 1 - line, side - 1 - line), radius=side // 2 - line, fill=0)
    return mask.reduce(_SMOOTHING)


def _place_labels(
    rows: list[Detection], frames: list[Rectangle], style: _Style, size_wh: tuple[int, int]
) -> list[_Label]:
    """Place each label, highest score first, where it hides least of other labels and of objects."""
    objects = np.array(frames, dtype=np.float64).reshape(-1, 4)
    taken = np.zeros((0, 4))
    labels = []
    for row, frame in zip(rows, frames, strict=True):
        line, margin = _fit_text(row, frame, style, size_wh)
        width, height = min(line.width + 2 * margin, size_wh[0]), min(line.ascent + line.descent, size_wh[1])
        places = _candidates(frame, (width, height), size_wh)
        cost = 4 * _share(places, taken, of_first=True) + _share(places, objects, of_first=False)
        cost += np.arange(len(places)) * 0.02  # among equally good places, the usual one
        place = places[int(cost.argmin())]
        taken = np.vstack([taken, place])
        left, top = round(place[0]), round(place[1])
        area = (left, top, left + width, top + height)
        labels.append(_Label(line, margin, area, style.color(row.label)))
    return labels


def _candidates(frame: Rectangle, label_wh: tuple[int, int], size_wh: tuple[int, int]) -> np.ndarray:
    """Return places (k, 4) for a label around and inside its frame, moved into the image."""
    left, top, right, bottom = frame
    width, height = label_wh
    corners = np.array(
        [
            (left, top - height),
            (left, bottom),
            (right - width, top - height),
            (right - width, bottom),
            (right, top),
            (left - width, top),
            (left, top),
            (left, bottom - height),
            (right - width, top),
            (right - width, bottom - height),
        ],
        dtype=np.float64,
    )
    corners = corners.clip(0, np.maximum(np.subtract(size_wh, label_wh), 0))
    return np.hstack([corners, corners + label_wh])


def _share(first: np.ndarray, second: np.ndarray, *, of_first: bool) -> np.ndarray:
    """Return the summed shares of the first (or second) rectangles that overlap: (k, 4) and (n, 4) give (k,)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    whole = first[:, None] if of_first else second[None]
    return (shared / (whole[..., 2:] - whole[..., :2]).prod(-1)).sum(1)


def _fit_text(row: Detection, frame: Rectangle, style: _Style, size_wh: tuple[int, int]) -> tuple[TextLine, int]:
    """Return a label that is not wider than the image, and the margin around its text in pixels."""
    size = style.font_size
    if not style.fixed:
        object_size = math.sqrt((frame[2] - frame[0]) * (frame[3] - frame[1]))
        size = max(_SMALLEST_FONT, min(size, max(0.3 * object_size, 0.6 * size)))
    margin = max(2, round(round(size) * 0.3))
    name = style.names[row.label]
    texts = [f"{name} {row.score:.2f}"] if style.show_scores else []
    shortened = (cut(name, length) for length in range(len(name) - 1, 0, -1))
    # if the text is wider than the image, omit the score first, then letters
    for text in itertools.chain(texts, [name], shortened):
        line = TextLine(lay_out(text, font=style.font), round(size))
        if line.width + 2 * margin <= size_wh[0]:
            return line, margin
    return TextLine((), round(size)), margin


def _draw_label(canvas: Image.Image, label: _Label) -> None:
    left, top, right, bottom = label.area
    width, height = right - left, bottom - top
    mask = Image.new("L", (width * _SMOOTHING, height * _SMOOTHING), 0)
    pen = ImageDraw.Draw(mask)
    pen.rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius=_SMOOTHING * height // 5, fill=255)
    canvas.paste(label.color, label.area, mask.reduce(_SMOOTHING))
    pen = ImageDraw.Draw(canvas)
    label.line.draw(pen, left + label.margin, top + label.line.ascent, color=_text_color(label.color))
