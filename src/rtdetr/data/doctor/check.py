"""Examine a dataset: `check(DATA)` reads the annotations and images of every split and returns a `Report`."""

import os
from collections.abc import Sequence

from rtdetr.config import DEFAULT_SIZE_HW, SizeHW
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
    size_hw: SizeHW = DEFAULT_SIZE_HW,
    queries: int = 300,
    max_examples: int = 8,
) -> Report:
    """Check a dataset for everything that would stop training or degrade its result. Nothing is changed.

    Unlike `open_dataset`, this also reads broken data, and reads every image completely; one core reads about 800
    photos of 640x480 per second.

    Args:
        data: folder of a COCO, YOLO or Pascal VOC dataset, of which all splits are read; or one annotation file; or a
            list of these, which count as splits of one dataset.
        images: folder of the images, if it is not in one of the usual places.
        size_hw: height and width of the network's input in pixels, used to find boxes that are too small.
        queries: number of queries of the model, the most objects that it can find per image.
        max_examples: maximum number of examples per finding.

    Raises:
        DatasetError: there is no dataset, or a file is not in the expected format at all.
        ConfigError: `data` has something other than paths, or a number is below 1.
    """
    if min(*size_hw, queries, max_examples) < 1:
        raise ConfigError(
            f"expected size, queries and examples of at least 1, got {size_hw}, {queries}, {max_examples}"
        )
    sources = [data] if isinstance(data, str | os.PathLike) else list(data)
    if not all(isinstance(source, str | os.PathLike) for source in sources):
        raise ConfigError(f"expected paths of folders or annotation files to examine, got {data!r:.80}")
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
