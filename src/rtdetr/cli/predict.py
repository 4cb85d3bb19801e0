"""`rtdetr predict`: detect objects in image files, print them, save annotated images and JSON."""

import logging
import os
from collections.abc import Iterator
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
    Nms,
    OneLabel,
    Precision,
    Recursive,
    Size,
    Tuned,
    hint_at_classes,
    parse_size,
)
from rtdetr.cli.output import check_targets, echo, write_file, write_json
from rtdetr.errors import InputError
from rtdetr.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from rtdetr.runtimes.base import BaseDetector


_log = logging.getLogger(__name__)


def predict(
    source: Annotated[list[str], typer.Argument(help="Image files, folders of images, or globs in quotes.")],
    model: Annotated[str, typer.Option(help="Model name (see 'rtdetr models'), weight file, exported file or folder.")],
    config: ModelFile = None,
    classes: Classes = None,
    threshold: Annotated[
        str,
        typer.Option(help="Lowest score to show, 0 to 1. auto: the best per class, as stored by 'rtdetr evaluate'."),
    ] = "0.5",
    size: Size = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 8,
    fast_resize: FastResize = False,
    tuned: Tuned = False,
    one_label: OneLabel = False,
    nms: Nms = None,
    save: Annotated[Path | None, typer.Option(help="Folder for annotated images.")] = None,
    font: Font = None,
    json_file: JsonFile = None,
    recursive: Recursive = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --save replace existing files.")] = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Detect objects in images.

    Prints the number of objects per class, one line per image. Images that cannot be read are reported and skipped;
    the exit status is then 2.
    """
    from rtdetr.exported_files import exported_format
    from rtdetr.fonts import given_face
    from rtdetr.images.files import find_images
    from rtdetr.images.sources import existing
    from rtdetr.runtimes import load

    size_hw = parse_size(size) if size else None
    check_targets(json_file, save and save / "image")
    lowest = parse_threshold(threshold)
    paths = find_images(source, recursive=recursive)
    if not any(map(os.path.lexists, paths)):
        existing(paths[0])  # report a missing file before loading the model
    targets = plan_annotated(paths, save, overwrite=overwrite) if save else {}
    if font is not None:
        given_face(font)  # fail early
    detector = load(
        model,
        model=config,
        categories=classes,
        device=device,
        precision=precision,
        one_label=one_label,
        nms_iou=nms,
        fast_resize=fast_resize,
        tuned=tuned,
    )
    if classes is None and not exported_format(model):  # `load` says it of exported files
        hint_at_classes(model, detector.categories)
    used_hw = detector.checked_size(size_hw)
    if used_hw != detector.size_hw:
        _log.info("resizing images to %dx%d (--size)", *used_hw)
    options: dict[str, Any] = {"threshold": lowest, "size_hw": size_hw, "batch_size": batch_size}
    rows = []
    for row, line in _detect(detector, paths, targets, options, font=font):
        echo(line, err="error" in row or json_file == "-")
        rows.append(row)
    if json_file:
        about = {"model": model, "threshold": lowest, "one_label": one_label, "nms": nms}
        write_json({**about, "images": rows}, json_file)
    if save:
        _log.info("wrote annotated images to %s", save)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise InputError(
            f"{len(failed)} of {counted(len(rows), 'image')} could not be read. The first is {failed[0]['file']}"
        )


def _detect(
    detector: "BaseDetector",
    paths: list[Path],
    targets: dict[Path, Path],
    options: dict[str, Any],
    *,
    font: Path | None,
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the JSON row and the line to print of each file, and save annotated images."""
    from rtdetr.drawing import draw

    seen = detector.detect_each(paths, keep_images=bool(targets), **options)
    for path, one in zip(paths, seen, strict=True):
        if isinstance(one, InputError):
            reason = str(one)
            yield {"file": str(path), "error": reason}, reason if str(path) in reason else f"{path}: {reason}"
            continue
        found, annotated = one.detections, {}
        if one.image is not None:
            _write_image(draw(one.image, found, font=font), targets[path])
            annotated = {"annotated": str(targets[path])}
        objects = ", ".join(f"{count} {name}" for name, count in found.counts().items()) or "nothing found"
        yield {"file": str(path), **annotated, **found.to_json()}, f"{path}: {objects}"


def parse_threshold(text: str) -> "float | Literal['auto']":
    """Parse a score threshold: a number in 0..1, or "auto".

    Raises:
        InputError: the text has another form.
    """
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--threshold: expected a number from 0 to 1 or 'auto', got {text!r}")
    return value


def plan_annotated(paths: list[Path], folder: Path, *, overwrite: bool = False) -> dict[Path, Path]:
    """Return the annotated file of each image: the same name in `folder`, numbered if names are not unique.

    Raises:
        InputError: an input file would be overwritten, or any file without `overwrite`.
    """
    from rtdetr.images.files import SAVED_FORMATS

    taken: set[str] = set()
    targets: dict[Path, Path] = {}
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in SAVED_FORMATS else ".png"
        name, number = path.stem + suffix, 1
        while name.lower() in taken:  # some file systems ignore case
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        taken.add(name.lower())
        targets[path] = folder / name
    sources = {path.resolve() for path in paths}
    for target in targets.values():
        if target.resolve() in sources:
            raise InputError(f"--save {folder} would overwrite the input image {target}: choose another folder")
    there = [target for target in targets.values() if target.exists()]
    if there and not overwrite:
        raise InputError(
            f"--save {folder} would overwrite {len(there)} of {counted(len(targets), 'file')} there, the first is "
            f"{there[0]}: add --overwrite, or choose another folder"
        )
    return targets


def _write_image(image: "Image", target: Path) -> None:
    from rtdetr.images.files import SAVED_FORMATS

    kind = SAVED_FORMATS[target.suffix.lower()]
    write_file(target, lambda file: image.save(file, format=kind, quality=95))
