"""Examine a data set: `check(DATA)` reads annotations and images of every split and returns a `Report`."""

import os
from collections.abc import Sequence

from rtdetr.config import SizeHW
from rtdetr.data.doctor.box_checks import check_boxes
from rtdetr.data.doctor.checks import (
    check_classes,
    check_contents,
    check_copies,
    check_entries,
    check_files,
    check_labels,
)
from rtdetr.data.doctor.find import find_parts
from rtdetr.data.doctor.report import Report, is_whole
from rtdetr.data.doctor.survey import Collector, survey
from rtdetr.errors import ConfigError
from rtdetr.files import with_home


def check(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    images: str | os.PathLike[str] | None = None,
    size_hw: SizeHW = (640, 640),
    queries: int = 300,
    max_examples: int = 8,
) -> Report:
    """Look for everything in a data set that would stop training or spoil its result. Nothing is changed.

    Unlike `open_dataset` this reads data that is broken, and every image to its end; a core reads about 800 photos of
    640x480 a second.

    Args:
        data: folder of a data set in COCO, YOLO or Pascal VOC form, of which all splits are read; or one annotation
            file; or several such, which are then taken for splits of one data set.
        images: folder of the images, when it is not in one of the usual places.
        size_hw: height and width of the network's input, pixels: boxes are too small for it or not.
        queries: objects that the model can find in an image.
        max_examples: examples that each finding names.

    Raises:
        DatasetError: there is no data set, or a file is not of its format at all.
        ConfigError: `data` holds something else than paths, or a number is below 1.
    """
    if min(*size_hw, queries, max_examples) < 1:
        raise ConfigError(
            f"expected size, queries and examples of at least 1, got {size_hw}, {queries}, {max_examples}"
        )
    sources = [data] if isinstance(data, str | os.PathLike) else list(data)
    if not all(isinstance(source, str | os.PathLike) for source in sources):
        raise ConfigError("expected paths of folders or annotation files to examine, got something else")
    paths = [with_home(source) for source in sources]
    parts, broken = find_parts(paths, images=None if images is None else with_home(images))
    examined = survey(parts)
    found = Collector(max_examples)
    for kind, example in broken:
        found.add_one(kind, example)
    check_entries(examined, found)
    check_classes(examined, found)
    check_files(examined, found)
    check_labels(examined, found, is_whole=is_whole(paths))
    check_contents(examined, found, size_hw=size_hw, queries=queries)
    check_copies(examined, found)
    check_boxes(examined, found, size_hw=size_hw)
    return Report(paths, examined, found.findings())
