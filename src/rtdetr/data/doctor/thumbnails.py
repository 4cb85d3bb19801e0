"""Thumbnails of findings: the image with its boxes, zoomed in so that the box of the finding is visible."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rtdetr.data.doctor.findings import Example
from rtdetr.data.doctor.images import image_of
from rtdetr.data.doctor.survey import Position, Survey
from rtdetr.errors import InputError
from rtdetr.images.orientation import turn_back

THUMB_WH = (320, 240)
_BEYOND = (226, 228, 232)  # color of the area outside the image
_MEANT, _EDGE, _OTHER = (229, 37, 62), (255, 255, 255), (255, 214, 10)
_CONTEXT = 5.0  # side of the window relative to the longer side of the box
_MIN_WINDOW = 48.0  # pixels of the image
_MAX_BEYOND = 4.0  # a box is shown up to this many image sides outside the image


class Thumbnail(NamedTuple):
    """A small image with a caption."""

    image: Image.Image
    caption: str


def thumbnails(survey: Survey, example: Example) -> list[Thumbnail]:
    """Return the readable images of an example; for an image annotated without its EXIF rotation, both orientations."""
    shown = []
    for number, position in enumerate(example.images):
        image = _open(survey, position)
        if image is None:
            continue
        facts, stated = survey.facts[position[0]][position[1]], tuple(survey.sizes_wh[position[0]][position[1]])
        box = example.box if number == 0 else None
        caption = survey.file_name(position) if len(example.images) > 1 else ""
        if stated != facts.upright_wh and stated == facts.stored_wh:
            stored = image.transpose(turn_back(facts.orientation))
            shown.append(Thumbnail(_render(survey, position, stored, box), "as annotated"))
            if box is not None:
                continue
            caption = "as cameras and viewers show it"
        shown.append(Thumbnail(_render(survey, position, image, box), caption))
    return shown


def _open(survey: Survey, position: Position) -> Image.Image | None:
    if not survey.facts[position[0]][position[1]].usable:
        return None
    try:
        return image_of(survey.parts[position[0]].images[position[1]].path)
    except InputError:  # removed since it was examined
        return None


def _render(survey: Survey, position: Position, image: Image.Image, box: int | None) -> Image.Image:
    """Render an image, or the part around a box, with all boxes; the box of the finding is red."""
    part, number = position
    rows = np.flatnonzero(survey.parts[part].box_images == number)
    xywh = survey.boxes_xywh[part]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    window = _window(image.size, None if box is None else corners[box])
    left, top, right, bottom = window
    scale = min(THUMB_WH[0] / (right - left), THUMB_WH[1] / (bottom - top))
    canvas = _view(image, window, scale)
    pen = ImageDraw.Draw(canvas)
    for row in [*rows[rows != box].tolist(), *([] if box is None else [box])]:
        place = (corners[row] - np.tile(window[:2], 2)) * scale
        place = np.concatenate([np.minimum(place[:2], place[2:]), np.maximum(place[:2], place[2:])])
        place = place.clip(-9, max(THUMB_WH) + 9).round()
        x1, y1, x2, y2 = place.tolist()
        # draw around a box that is narrower than its lines
        grow = 2 if min(x2 - x1, y2 - y1) < 4 else 0
        outline = (x1 - grow, y1 - grow, x2 + grow, y2 + grow)
        if row == box:  # a white edge separates the red from a red object
            pen.rectangle(
                tuple(value + edge for value, edge in zip(outline, (-1, -1, 1, 1), strict=True)), outline=_EDGE, width=4
            )
        pen.rectangle(outline, outline=_MEANT if row == box else _OTHER, width=2 if row == box else 1)
    return canvas


def _window(size_wh: tuple[int, int], box_xyxy: np.ndarray | None) -> tuple[int, int, int, int]:
    """Return the part of the image plane to show, pixels: the whole image, or the surroundings of a box."""
    size = np.array(size_wh, dtype=np.float64)
    low, high = np.zeros(2), size
    if box_xyxy is not None:
        box_low, box_high = np.minimum(box_xyxy[:2], box_xyxy[2:]), np.maximum(box_xyxy[:2], box_xyxy[2:])
        side = max(_CONTEXT * (box_high - box_low).max(), _MIN_WINDOW)
        if (box_low >= 0).all() and (box_high <= size).all():
            if side < size.max() * 0.7:
                half = np.minimum([side * THUMB_WH[0] / THUMB_WH[1], side], size) / 2
                center = np.clip((box_low + box_high) / 2, half, size - half)
                low, high = center - half, center + half
        else:
            low = np.maximum(np.minimum(low, box_low - 4), -_MAX_BEYOND * size)
            high = np.minimum(np.maximum(high, box_high + 4), (1 + _MAX_BEYOND) * size)
    left, top = np.floor(low).astype(int).tolist()
    right, bottom = np.ceil(high).astype(int).tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _view(image: Image.Image, window: tuple[int, int, int, int], scale: float) -> Image.Image:
    """Return the window of the image plane, scaled."""
    left, top, right, bottom = window
    canvas = Image.new("RGB", [max(1, round(side * scale)) for side in (right - left, bottom - top)], _BEYOND)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        wh = [max(1, round((inside[i + 2] - inside[i]) * scale)) for i in (0, 1)]
        way = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
        place = (round((inside[0] - left) * scale), round((inside[1] - top) * scale))
        canvas.paste(image.crop(inside).resize((wh[0], wh[1]), way), place)
    return canvas
