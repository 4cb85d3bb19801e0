"""`rtdetr predict`: detect objects in image files, print them, save annotated images and JSON."""

import logging
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rtdetr.cli.arguments import (
    BatchSize,
    Classes,
    Device,
    FastResize,
    Font,
    JsonFile,
    MaxPixels,
    ModelFile,
    Precision,
    Recursive,
    Size,
    find_images,
    hint_at_classes,
    parse_size,
)
from rtdetr.cli.output import echo, write_file, write_json
from rtdetr.errors import InputError
from rtdetr.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from rtdetr.detections import Detections, Detector
    from rtdetr.images import Picture

_log = logging.getLogger(__name__)
SAVED_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}  # other kinds are saved as PNG


def predict(
    source: Annotated[list[str], typer.Argument(help="Image files, folders of images, or globs in quotes.")],
    model: Annotated[str, typer.Option(help="Model name (see 'rtdetr models'), weight file, exported file or folder.")],
    config: ModelFile = None,
    classes: Classes = None,
    threshold: Annotated[
        str,
        typer.Option(help="Lowest score shown, 0 to 1. auto: the best per class, if stored by 'rtdetr evaluate'."),
    ] = "0.5",
    size: Size = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 8,
    fast_resize: FastResize = False,
    save: Annotated[Path | None, typer.Option(help="Folder for annotated images.")] = None,
    font: Font = None,
    json_file: JsonFile = None,
    recursive: Recursive = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --save replace existing files.")] = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Detect objects in images.

    Prints the number of objects per class of each image, one line per image. Images that cannot be read are reported
    and left out; the exit status is then 2.
    """
    from rtdetr.fonts import given_face
    from rtdetr.runtimes import load

    size_hw = parse_size(size) if size else None
    lowest = parse_threshold(threshold)
    paths = find_images(source, recursive=recursive)
    targets = plan_annotated(paths, save, overwrite=overwrite) if save else {}
    if font is not None:
        given_face(font)  # a mistake ends the command before the work
    detector = load(
        model, model=config, categories=classes, device=device, precision=precision, fast_resize=fast_resize
    )
    if classes is None:
        hint_at_classes(model, detector.categories)
    rows: list[dict[str, Any]] = []
    options: dict[str, Any] = {"threshold": lowest, "size_hw": size_hw, "batch_size": batch_size}
    for path, found in _detect(detector, paths, targets, options, font=font):
        if isinstance(found, InputError):
            reason = str(found)
            echo(reason if str(path) in reason else f"{path}: {reason}", err=True)
            rows.append({"file": str(path), "error": reason})
            continue
        objects = ", ".join(f"{count} {name}" for name, count in found.counts().items()) or "nothing found"
        echo(f"{path}: {objects}", err=json_file == "-")
        annotated = {"annotated": str(targets[path])} if path in targets else {}
        rows.append({"file": str(path), **annotated, **found.to_json()})
    if json_file:
        write_json({"model": model, "threshold": lowest, "images": rows}, json_file)
    if save:
        _log.info("annotated images are in %s", save)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise InputError(
            f"{len(failed)} of {counted(len(rows), 'image')} could not be read; the first is {failed[0]['file']}"
        )


def _detect(
    detector: "Detector",
    paths: list[Path],
    targets: dict[Path, Path],
    options: dict[str, Any],
    *,
    font: Path | None,
) -> Iterator[tuple[Path, "Detections | InputError"]]:
    """Yield what is found in each file, or why it cannot be read; save annotated images on the way."""
    from concurrent.futures import ThreadPoolExecutor

    from rtdetr.drawing import draw

    batch_size = options["batch_size"]
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            images = list(pool.map(_read, batch, repeat(detector.in_channels)))
            good = [image for image in images if not isinstance(image, InputError)]
            results = detector(good, **options)
            assert isinstance(results, list)
            in_order = iter(results)
            for path, image in zip(batch, images, strict=True):
                if isinstance(image, InputError):
                    yield path, image
                    continue
                found = next(in_order)
                if path in targets:
                    _write_image(draw(image, found, font=font), targets[path])
                yield path, found


def _read(path: Path, num_channels: int) -> "Picture | InputError":
    from rtdetr.images import read_picture

    try:
        return read_picture(path, num_channels=num_channels)
    except InputError as error:
        return error


def parse_threshold(text: str) -> "float | Literal['auto']":
    """Read a score threshold: a number in 0..1, or "auto".

    Raises:
        InputError: anything else.
    """
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"expected a threshold in 0..1 or 'auto', got {text!r}")
    return value


def plan_annotated(paths: list[Path], folder: Path, *, overwrite: bool = False) -> dict[Path, Path]:
    """Name the annotated image of each file: its own name in `folder`, with a number where two would be the same.

    Raises:
        InputError: a source file would be overwritten, or without `overwrite` any file.
    """
    taken: set[str] = set()
    targets: dict[Path, Path] = {}
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in SAVED_SUFFIXES else ".png"
        name, number = path.stem + suffix, 1
        while name.lower() in taken:  # some file systems ignore case
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        taken.add(name.lower())
        targets[path] = folder / name
    sources = {path.resolve() for path in paths}
    for target in targets.values():
        if target.resolve() in sources:
            raise InputError(f"--save {folder} would overwrite the image {target}: choose another folder")
    there = [target for target in targets.values() if target.exists()]
    if there and not overwrite:
        raise InputError(
            f"--save {folder} would overwrite {len(there)} of {counted(len(targets), 'file')} there, the first is "
            f"{there[0]}: add --overwrite, or choose another folder"
        )
    return targets


def _write_image(image: "Image", target: Path) -> None:
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(target.suffix.lower(), target.suffix[1:].upper())
    write_file(target, lambda file: image.save(file, format=kind, quality=95))
