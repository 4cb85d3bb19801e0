"""Draw families of small detection datasets, which differ in what makes detection hard.

    python benchmarks/learning_scenes.py FOLDER

This writes one sheet of examples per family, with the boxes, and prints how many images one core draws per second.
`make_dataset` draws a dataset in COCO format. The classes are symbols: letters, signs and pictures of a font, and
shapes. They lie on crops of the demo photos, partly occlude each other, and vary in color, texture, angle, light,
sharpness and noise. Boxes enclose the whole symbol, including occluded parts. Blurred spots are not objects. Training
and validation use different parts of each photo.
"""

import argparse
import colorsys
import functools
import json
import math
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PHOTOS = Path(__file__).parent.parent / "examples" / "demo" / "photos"
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"

# "name=glyph", a single character for itself, or the name of a shape; those of one set differ even if rotated by 30°
_FIRST = """A disk 7 star omega=Ω heart=♥ K arrow
B E G H P T U 2 3 5 square triangle ring crescent gamma=Γ sigma=Σ phi=Φ psi=Ψ delta=δ lambda=λ zhe=Ж sha=Ш
euro=€ ampersand=& hash=# percent=% question=? notes=♫ spade=♠ umbrella=☂ plane=✈ king=♚"""
_SECOND = """D F J L M N Q V Y a e g m t 4 approx=≈ cross hourglass bolt drop ae=Æ xi=Ξ mu=μ de=Д yu=Ю ya=Я be=Б
pound=£ section=§ pilcrow=¶ infinity=∞ root=√ yin-yang=☯ radiation=☢ anchor=⚓ gear=⚙ phone=☎ flag=⚑ pencil=✎ sun=☀"""
_THIRD = """fleur-de-lis=⚜ knight=♞ club=♣ check=✔ pie house=⌂ wheelchair=♿ xeh=Խ yery=Ы khar=ქ male=♂ hammers=⚒
rook=♜ recycling=♻ ankh=☥ biohazard=☣ skull=☠ smile=☻ hot-springs=♨ snowflake=❄ envelope=✉ maltese-cross=✠
hand=☛ neptune=♆ pisces=♓ zeta=ζ small-xi=ξ char=ჭ peh=Պ feh=Ֆ frame pawn=♟ phar=ფ ghan=ღ burst leaf"""
_GLYPHS = {
    name: glyph or name for name, _, glyph in (word.partition("=") for word in f"{_FIRST} {_SECOND} {_THIRD}".split())
}
SYMBOLS = tuple(_GLYPHS)

SPLITS = ("train", "val")
PARAMETERS_FILE = "parameters.txt"  # family and seed of a dataset
SIZES_WH = ((160, 128), (128, 160), (144, 144), (176, 128))
TRAINING_PART = 0.6  # share of the width of each photo; validation uses the rest
TYPICAL_COLOR = 0.8  # share of objects with about the hue of their class; others have a random hue
MAX_TURN = 30.0  # degrees, of glyphs; shapes have any angle
MIN_VISIBLE = 0.5  # share of each object
MIN_CONTRAST = 60.0  # mean difference of color channels, 0 to 255, from what is beneath; not always reached
TRIES = 15
SUPERSAMPLING = 3
TEMPLATE_SIDE, SYMBOL_SIDE = 256, 192

Array = NDArray[np.floating[Any]]


class Family(NamedTuple):
    """What a dataset looks like.

    Args:
        classes: Names from SYMBOLS.
        objects: Range of the number of objects of an image, uniform, ends included. Crowded images may have fewer,
            where no place is left.
        sides: Range of the longer side of the box in pixels, log-uniform.
        rare: Frequency of each class relative to the one before.
        shifted: Whether validation images are of another domain: dark, blurred, noisy, not on photos.
    """

    name: str
    train_images: int = 200
    val_images: int = 100
    classes: tuple[str, ...] = SYMBOLS[:8]
    objects: tuple[int, int] = (0, 8)
    sides: tuple[float, float] = (12.0, 60.0)
    rare: float = 1.0
    shifted: bool = False


FAMILIES = (  # for decisions on defaults
    Family("few", train_images=50),
    Family("usual"),
    Family("many", train_images=1000, classes=SYMBOLS[:40]),
    Family("one class", classes=SYMBOLS[:1]),
    Family("rare", rare=0.6),
    Family("tiny", sides=(4.0, 14.0)),
    Family("crowd", objects=(10, 30), sides=(8.0, 30.0)),
    Family("shift", shifted=True),
)
PRETRAINING = Family("pretraining", train_images=1500, classes=SYMBOLS[40:80])  # before fine-tuning, in place of COCO
UNSEEN = (  # for the final comparison only
    Family("unseen rare", train_images=80, classes=SYMBOLS[80:92], objects=(0, 12), sides=(8.0, 32.0), rare=0.8),
    Family("unseen crowd", train_images=400, classes=SYMBOLS[92:112], objects=(6, 24), sides=(10.0, 36.0)),
    Family(
        "unseen shift", train_images=150, classes=SYMBOLS[113:116], objects=(1, 6), sides=(10.0, 70.0), shifted=True
    ),
)


class Template(NamedTuple):
    """A symbol in the center of a square mask, at each level half as large as before, and its outline."""

    levels: tuple[Image.Image, ...]
    points: Array  # (n, 2) those farthest from the center in each direction, relative to it, on the first level


class Mask(NamedTuple):
    """A symbol as rendered."""

    alpha: Image.Image  # coverage of each pixel, 0 to 255
    inner: Image.Image | None  # the same without the border, if there is one
    box: tuple[float, float, float, float]  # xyxy in pixels of the mask


def make_dataset(folder: Path, family: Family, *, seed: int) -> Path:
    """Draw a dataset in COCO format into a folder, unless it is there, and return the folder.

    Raises:
        FileExistsError: the folder exists and is not of this family and seed.
    """
    parameters = f"{family} {seed}\n"
    if folder.exists():
        file = folder / PARAMETERS_FILE
        if not file.is_file() or file.read_text() != parameters:
            raise FileExistsError(
                f"{folder} is not the dataset of this family and seed: remove it, or use another folder"
            )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # rename when complete, so an unfinished dataset never has the final name
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / folder.name
        for split in SPLITS:
            _draw_split(unfinished, family, split, seed)
        (unfinished / PARAMETERS_FILE).write_text(parameters)
        unfinished.rename(folder)
    return folder


def _draw_split(folder: Path, family: Family, split: str, seed: int) -> None:
    """Write the images and the annotation file of one split."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images" / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, (family.train_images if split == "train" else family.val_images) + 1):
        rng = generator(family, split, seed, image_id)
        image, objects = draw_image(rng, family, split)
        name = f"{image_id:05d}.jpg"
        image.save(folder / "images" / split / name, quality=int(rng.integers(70, 96)))
        images.append({"id": image_id, "file_name": name, "width": image.width, "height": image.height})
        for one in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **one})
    categories = [{"id": number, "name": name} for number, name in enumerate(family.classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def generator(family: Family, split: str, seed: int, image_id: int) -> np.random.Generator:
    """Return the generator of one image."""
    return np.random.default_rng([seed, zlib.crc32(repr(family).encode()), SPLITS.index(split), image_id])


def draw_image(rng: np.random.Generator, family: Family, split: str) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw one image; return it with its objects as COCO annotations without ids."""
    width, height = size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]
    other_domain = family.shifted and split == "val"
    canvas = _clouds(rng, size_wh) if other_domain else _background(rng, split, size_wh)
    _add_spots(rng, canvas)
    seen = np.zeros((height, width), dtype=np.int64)  # number of the visible object at each pixel, 0 for none
    visible, areas = np.ones(1), np.zeros(1)  # pixels of each object; the background may be covered
    boxes: list[tuple[float, float, float, float]] = []
    objects: list[dict[str, Any]] = []
    shares: Array = np.cumsum(family.rare ** np.arange(len(family.classes)))
    smallest, largest = (math.log(side) for side in family.sides)
    for _ in range(rng.integers(family.objects[0], family.objects[1] + 1)):
        number = int(np.searchsorted(shares, rng.random() * float(shares[-1]), side="right"))
        side = min(math.exp(rng.uniform(smallest, largest)), min(size_wh) - 2.0)
        mask = _render(rng, family.classes[number], side)
        w, h = mask.alpha.size
        alpha = np.asarray(mask.alpha)
        solid = alpha > alpha.max() // 2  # thin lines of tiny symbols cover no pixel by more than half
        count = np.count_nonzero(solid)
        for _ in range(TRIES):
            x, y = _place(rng, (width - w, height - h), (w, h), boxes)
            covered = np.bincount(seen[y : y + h, x : x + w][solid], minlength=len(areas))
            if (visible - covered >= MIN_VISIBLE * areas)[1:].all():
                break
        else:
            continue
        seen[y : y + h, x : x + w][solid] = len(areas)
        visible, areas = np.append(visible - covered, count), np.append(areas, count)
        _paste(rng, canvas, mask, (x, y), family.classes[number], split)
        x0, y0, x1, y1 = mask.box
        boxes.append((x + x0, y + y0, x + x1, y + y1))
        bbox = [round(value, 2) for value in (x + x0, y + y0, x1 - x0, y1 - y0)]
        objects.append({"category_id": number + 1, "bbox": bbox, "area": round(int(alpha.sum()) / 255, 2)})
    return _expose(rng, canvas, dark=other_domain), objects


def _place(
    rng: np.random.Generator,
    room: tuple[int, int],
    size_wh: tuple[int, int],
    boxes: list[tuple[float, float, float, float]],
) -> tuple[int, int]:
    """Return a position anywhere or, half of the time, near another object."""
    if boxes and rng.random() < 0.5:
        x0, y0, x1, y1 = boxes[rng.integers(len(boxes))]
        x = (x0 + x1 - size_wh[0]) / 2 + rng.normal(0, 0.4) * (x1 - x0 + size_wh[0])
        y = (y0 + y1 - size_wh[1]) / 2 + rng.normal(0, 0.4) * (y1 - y0 + size_wh[1])
        return min(max(round(x), 0), room[0]), min(max(round(y), 0), room[1])
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def _render(rng: np.random.Generator, name: str, side: float) -> Mask:
    """Render a rotated, stretched and sheared symbol; the longer side of its box is `side` pixels."""
    bordered = side > 10 and rng.random() < 0.3
    template = _template(name, bordered=bordered)
    angle = math.radians(rng.uniform(-1, 1) * (180 if _is_shape(name) else MAX_TURN))
    cos, sin, stretch, shear = math.cos(angle), math.sin(angle), rng.uniform(0.9, 1.11), rng.uniform(-0.15, 0.15)
    a, b, c, d = cos * stretch, cos * shear - sin / stretch, sin * stretch, sin * shear + cos / stretch
    points = template.points @ np.array([[a, c], [b, d]])
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    scale = side / max(right - left, bottom - top)
    x0, y0 = rng.random(), rng.random()  # starts between pixels
    x1, y1 = x0 + (right - left) * scale, y0 + (bottom - top) * scale
    x, y = x0 - left * scale, y0 - top * scale  # the center of the template
    w, h = math.ceil(x1), math.ceil(y1)

    level = min(len(template.levels) - 1, max(0, int(math.log2(SYMBOL_SIDE / (side * SUPERSAMPLING)))))
    # from pixels of the image to those of the template; the determinant of the matrix is 1
    a, b, c, d = (value / scale / 2**level for value in (d, -b, -c, a))
    middle = TEMPLATE_SIDE / 2 / 2**level
    offsets = middle - a * x - b * y, middle - c * x - d * y
    n = SUPERSAMPLING
    data = (a / n, b / n, offsets[0], c / n, d / n, offsets[1])

    def covered(levels: tuple[Image.Image, ...]) -> Image.Image:
        large = levels[level].transform((w * n, h * n), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        return large.reduce(n)

    inner = covered(_template(name, bordered=False).levels) if bordered else None
    return Mask(covered(template.levels), inner, (x0, y0, x1, y1))


def _paste(
    rng: np.random.Generator, canvas: Image.Image, mask: Mask, corner: tuple[int, int], name: str, split: str
) -> None:
    """Draw an object, at times with a shadow, onto the canvas."""
    w, h = mask.alpha.size
    area = (*corner, corner[0] + w, corner[1] + h)
    beneath = np.array(canvas.resize((1, 1), Image.Resampling.BOX, box=area).getpixel((0, 0)))
    if rng.random() < 0.3:
        radius = max(w, h) * rng.uniform(0.03, 0.08)
        x, y = (int(v) for v in rng.uniform(-0.1, 0.1, size=2) * (w, h) * 1.5)
        pad = int(2 * radius) + 1
        shadow = Image.new("L", (w + 2 * pad, h + 2 * pad))
        shadow.paste(int(rng.uniform(90, 190)), (pad, pad), mask.alpha)
        shadow = shadow.filter(ImageFilter.GaussianBlur(radius))
        canvas.paste((8, 8, 12), (corner[0] - pad + x, corner[1] - pad + y), shadow)

    typical = (SYMBOLS.index(name) * 0.618 + rng.normal(0, 0.025)) % 1
    hue = typical if rng.random() < TYPICAL_COLOR else rng.random()
    color, contrast = beneath, 0.0
    for _ in range(8):
        candidate = _color(rng, hue)
        if (difference := float(np.abs(candidate - beneath).mean())) > contrast:
            color, contrast = candidate, difference
        if contrast >= MIN_CONTRAST:
            break
    light = np.ones((h, w), dtype=np.float32)
    if rng.random() < 0.35:
        light *= _texture(rng, split, (w, h))
    if rng.random() < 0.4:
        light *= _gradient(rng, (w, h), rng.uniform(0.2, 0.6))
    surface = color.astype(np.float32) * light[..., None]
    if mask.inner is not None:
        border = color * 0.2 if color.mean() > 110 else 255 - (255 - color) * 0.15
        inner = np.asarray(mask.inner, dtype=np.float32)[..., None] / 255
        surface = border.astype(np.float32) * (1 - inner) + surface * inner
    canvas.paste(Image.fromarray(surface.clip(0, 255).astype(np.uint8)), corner, mask.alpha)


def _color(rng: np.random.Generator, hue: float) -> Array:
    """Return an RGB color, 0 to 255, of this hue."""
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.55, 1.0), rng.uniform(0.35, 1.0))) * 255


def _texture(rng: np.random.Generator, split: str, size_wh: tuple[int, int]) -> Array:
    """Return the brightness (h, w) of a piece of a photo, relative to its mean."""
    photos = _photos(split, "L")
    photo = photos[rng.integers(len(photos))]
    zoom = rng.uniform(1, 2)
    w, h = size_wh[0] * zoom, size_wh[1] * zoom
    x, y = rng.random() * (photo.width - w), rng.random() * (photo.height - h)
    piece = np.asarray(photo.resize(size_wh, Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)), dtype=np.float32)
    return (1 + 0.35 * (piece - piece.mean()) / (piece.std() + 4)).clip(0.4, 1.6)


def _gradient(rng: np.random.Generator, size_wh: tuple[int, int], amount: float) -> Array:
    """Return a brightness (h, w) that changes linearly by `amount` around 1, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-0.5, 0.5, size_wh[0], dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-0.5, 0.5, size_wh[1], dtype=np.float32) * np.float32(np.sin(angle))
    return 1 + np.float32(amount) * (x + y[:, None])


@functools.cache
def _photos(split: str, mode: str = "RGB") -> tuple[Image.Image, ...]:
    """Return the part of each photo that a split may use."""
    parts: list[Image.Image] = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        photo = Image.open(path).convert(mode)
        middle = round(photo.width * TRAINING_PART)
        parts.append(photo.crop((0, 0, middle, photo.height) if split == "train" else (middle, 0, *photo.size)))
    return tuple(parts)


def _crop(rng: np.random.Generator, photos: tuple[Image.Image, ...], size_wh: tuple[int, int]) -> Image.Image:
    """Return a piece of a photo at a random zoom, possibly mirrored."""
    photo = photos[rng.integers(len(photos))]
    w, h = size_wh[0] * rng.uniform(0.8, 1.25), float(size_wh[1])
    zoom = min(photo.width / w, photo.height / h) * rng.uniform(0.35, 1.0)
    w, h = w * zoom, h * zoom
    x, y = rng.random() * max(0.0, photo.width - w), rng.random() * max(0.0, photo.height - h)
    box = (x, y, min(x + w, photo.width), min(y + h, photo.height))
    piece = photo.resize(size_wh, Image.Resampling.BILINEAR, box=box)
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else piece


def _background(rng: np.random.Generator, split: str, size_wh: tuple[int, int]) -> Image.Image:
    """Return a piece of a photo, half of the time mixed with another one."""
    piece = _crop(rng, _photos(split), size_wh)
    if rng.random() < 0.5:
        piece = Image.composite(_crop(rng, _photos(split), size_wh), piece, _noise(rng, 3, size_wh))
    return piece


def _noise(rng: np.random.Generator, cells: int, size_wh: tuple[int, int]) -> Image.Image:
    """Return smooth gray noise."""
    small = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    return small.resize(size_wh, Image.Resampling.BICUBIC)


def _clouds(rng: np.random.Generator, size_wh: tuple[int, int]) -> Image.Image:
    """Return the background of another domain: noise of several scales in two colors."""
    layers = [np.asarray(_noise(rng, cells, size_wh), dtype=np.float32) / 255 for cells in (4, 12, 48)]
    amount = (np.tensordot((0.5, 0.3, 0.2), np.stack(layers), 1) * 2 - 0.5).clip(0, 1)[..., None]
    one, other = rng.uniform(40, 190, size=(2, 1)) + rng.uniform(-40, 40, size=(2, 3))
    return Image.fromarray((one + (other - one) * amount).clip(0, 255).astype(np.uint8))


def _add_spots(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw blurred, colored spots, which are not objects, onto the canvas."""
    for _ in range(rng.integers(0, 5)):
        w, h = (int(v) for v in rng.uniform(10, 60, size=2))
        x, y = (int(v) for v in rng.uniform((0, 0), canvas.size))
        r, g, b = (int(v) for v in _color(rng, rng.random()))
        canvas.paste((r, g, b), (x - w // 2, y - h // 2), _spot().resize((w, h)))


@functools.cache
def _spot() -> Image.Image:
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).ellipse((16, 16, 47, 47), fill=190)
    return mask.filter(ImageFilter.GaussianBlur(7))


def _expose(rng: np.random.Generator, canvas: Image.Image, *, dark: bool) -> Image.Image:
    """Return the image in random light, blurred and with noise."""
    gain = rng.uniform(0.35, 0.6) if dark else rng.uniform(0.7, 1.2)
    contrast, gamma = rng.uniform(0.75, 1.15), np.exp(rng.uniform(-0.25, 0.25))
    values = np.linspace(0, 1, 256) ** gamma
    values = ((values - 0.5) * contrast + 0.5) * gain * 255
    table = np.concatenate([values * tint for tint in rng.uniform(0.93, 1.07, size=3)])
    canvas = canvas.point([int(v) for v in table.clip(0, 255)])
    if dark or rng.random() < 0.6:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 1.4) if dark else rng.uniform(0, 0.8)))
    pixels = np.asarray(canvas, dtype=np.float32) * _gradient(rng, canvas.size, rng.uniform(0, 0.6))[..., None]
    deviation = np.float32(rng.uniform(4, 9) if dark else rng.uniform(0, 8))
    pixels = pixels + deviation * rng.standard_normal(size=pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@functools.cache
def _template(name: str, *, bordered: bool) -> Template:
    """Draw a symbol, with a border grown where it has one."""
    mask = _shape_mask(_outlines(name)) if _is_shape(name) else _glyph_mask(_GLYPHS[name])
    if bordered:
        mask = mask.filter(ImageFilter.GaussianBlur(9)).point([0] * 20 + [min(255, 12 * v) for v in range(236)])
    solid = np.asarray(mask) > 127
    rows = np.flatnonzero(solid.any(axis=1))
    left, right = solid.argmax(axis=1)[rows], TEMPLATE_SIDE - solid[:, ::-1].argmax(axis=1)[rows]
    corners = [(x, y + dy) for x in (left, right) for y in (rows,) for dy in (0, 1)]
    points = np.concatenate([np.stack(corner, axis=1) for corner in corners]) - TEMPLATE_SIDE / 2
    extreme = np.unique((points @ _arc(0, 2 * np.pi, 120).T).argmax(axis=0))
    return Template((mask, *(mask.reduce(2**level) for level in (1, 2, 3))), points[extreme])


def _glyph_mask(glyph: str) -> Image.Image:
    font = _font()
    x0, y0, x1, y1 = font.getbbox(glyph)
    drawn = Image.new("L", (round(x1 - x0), round(y1 - y0)))
    ImageDraw.Draw(drawn).text((-x0, -y0), glyph, fill=255, font=font)
    drawn = drawn.crop(drawn.getbbox())
    scale = SYMBOL_SIDE / max(drawn.size)
    drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS)
    mask = Image.new("L", (TEMPLATE_SIDE, TEMPLATE_SIDE))
    mask.paste(drawn, ((TEMPLATE_SIDE - drawn.width) // 2, (TEMPLATE_SIDE - drawn.height) // 2))
    return mask


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, 256)


def _shape_mask(outlines: list[Array]) -> Image.Image:
    """Fill outlines (n, 2) in coordinates from -1 to 1; all but the first are holes."""
    mask = Image.new("L", (4 * TEMPLATE_SIDE, 4 * TEMPLATE_SIDE))
    for i, points in enumerate(outlines):
        corners = [(float(x), float(y)) for x, y in points * 2 * SYMBOL_SIDE + 2 * TEMPLATE_SIDE]
        ImageDraw.Draw(mask).polygon(corners, fill=0 if i else 255)
    return mask.reduce(4)


def _is_shape(name: str) -> bool:
    return len(name) > 1 and _GLYPHS[name] == name


def _outlines(name: str) -> list[Array]:
    """Return the outline of a shape and that of its hole if it has one; points (n, 2) from -1 to 1."""
    circle = _arc(0, 2 * np.pi)[:-1]
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    if name in ("ring", "frame"):
        outer = circle if name == "ring" else square
        return [outer, 0.5 * outer]
    outlines = {
        "disk": circle,
        "square": square,
        "triangle": circle[::20],
        "star": circle[::6] * np.tile([1.0, 0.42], 5)[:, None],
        "burst": _arc(0, 2 * np.pi, 25)[:-1] * np.tile([1.0, 0.6], 12)[:, None],
        "crescent": np.concatenate([_arc(0.4, 2 * np.pi - 0.4), (0.2, 0) + 0.82 * _arc(2 * np.pi - 0.5, 0.5)]),
        "pie": np.concatenate([_arc(0.65, 2 * np.pi - 0.65), np.zeros((1, 2))]),
        "drop": np.concatenate([0.6 * _arc(1.0, 2 * np.pi - 1.0) - (0.4, 0), np.array([(1, 0)])]),
        "leaf": np.concatenate([1.4 * _arc(0.78, 2.36) - (0, 0.98), 1.4 * _arc(-2.36, -0.78) + (0, 0.98)]),
        "arrow": np.array([(1, 0), (0.1, -0.8), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.8)]),
        "hourglass": np.array([(-0.8, -1), (0.8, -1), (0.15, 0), (0.8, 1), (-0.8, 1), (-0.15, 0)]),
        "bolt": np.array([(0.2, -1), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1), (0.6, -0.25), (0.05, -0.25), (0.6, -1)]),
        "cross": np.concatenate([_corner(turn) for turn in range(4)]),
    }
    return [outlines[name]]


def _arc(start: float, end: float, num_points: int = 61) -> Array:
    """Return points on the unit circle."""
    angles = np.linspace(start, end, num_points)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corner(turn: int) -> Array:
    """Return the points of a cross between two of its arms."""
    return np.array([(0.3, 0.3), (0.3, 1), (-0.3, 1)]) @ np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turn)


def example_sheet(family: Family, split: str, *, seed: int = 0, columns: int = 4, rows: int = 2) -> Image.Image:
    """Draw the first images of a split, twice as large, with their boxes."""
    side = 2 * max(map(max, SIZES_WH))
    sheet = Image.new("RGB", (columns * side, rows * side))
    for i in range(columns * rows):
        image, objects = draw_image(generator(family, split, seed, i + 1), family, split)
        image = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(image)
        for one in objects:
            x, y, w, h = one["bbox"]
            pen.rectangle((2 * x - 1, 2 * y - 1, 2 * (x + w), 2 * (y + h)), outline="yellow")
            pen.text((2 * x + 1, 2 * y - 11), family.classes[int(one["category_id"]) - 1], fill="yellow")
        sheet.paste(image, (i % columns * side, i // columns * side))
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw examples of each family.")
    parser.add_argument("folder", type=Path, help="output folder")
    output = parser.parse_args().folder
    output.mkdir(parents=True, exist_ok=True)
    for each in (*FAMILIES, PRETRAINING, *UNSEEN):
        for subset in SPLITS if each.shifted else SPLITS[:1]:
            example_sheet(each, subset).save(output / f"{each.name.replace(' ', '_')}_{subset}.png")
        start = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            make_dataset(Path(scratch) / "data", each._replace(train_images=50, val_images=50), seed=1)
        print(f"{each.name}: {100 / (time.process_time() - start):.0f} images per second of one core")
