"""Images to compare two models on, and to calibrate INT8 on."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.errors import InputError, MissingSplitError
from rtdetr.export.built_in_images import built_in_images
from rtdetr.export.job import Job
from rtdetr.images import LoadedImage, read_image, size_of
from rtdetr.preprocessing import preprocess
from rtdetr.runtimes.graph_form import IMAGES, SIZES
from rtdetr.wording import counted

NUM_OF_DATASET = 8  # images of a dataset to compare
Data = str | os.PathLike[str] | DetectionDataset
Images = Sequence[Any] | DetectionDataset
Feed = dict[str, np.ndarray]
"""Inputs of a graph by name."""


class Samples(NamedTuple):
    """Images for the check and the calibration of an export.

    images: images to compare detections on.
    dataset: dataset to measure AP on; None: AP is not measured.
    feeds: inputs of the graph to calibrate INT8 on.
    """

    images: list[LoadedImage]
    dataset: DetectionDataset | None = None
    feeds: Sequence[Feed] = ()


def open_samples(job: Job, images: Sequence[Any] | None, data: Data | None, *, on_bad_image: str) -> Samples:
    """Read the images for the check and the calibration; `rtdetr.export.export` documents the arguments.

    Raises:
        InputError: no images, an image that cannot be read, or only single-color images to calibrate on.
        DatasetError: the dataset is missing or broken, or has other classes.
    """
    channels, dataset = job.metadata.in_channels, None
    if data is not None:
        categories = job.metadata.categories
        dataset = open_dataset(data, split="val", categories=categories, on_bad_image=on_bad_image)
    if job.options.precision != "int8":
        return Samples(images_to_compare(images, dataset, channels), dataset)
    known = _to_calibrate(images, data, dataset, on_bad_image=on_bad_image)
    compared = list(spread(known if dataset is None else dataset, NUM_OF_DATASET, channels))
    chosen = spread(known, job.options.int8_or_default.num_calibration, channels)
    feeds = [_feed(image, job) for image in chosen]
    if all(np.ptp(feed[IMAGES], axis=(2, 3)).max() == 0 for feed in feeds):
        raise InputError(
            f"cannot calibrate on {counted(len(feeds), 'image')} of one color each: pass images typical of the model's "
            "use, ideally a hundred"
        )
    return Samples(compared, dataset, feeds)


def images_to_compare(
    images: Sequence[Any] | None, dataset: DetectionDataset | None, num_channels: int
) -> list[LoadedImage]:
    """Return the given images, otherwise some of the dataset, otherwise the built-in ones.

    Raises:
        InputError: the list is empty, or an image cannot be read.
    """
    if images is not None:
        if not images:
            raise InputError("expected at least one image to verify the model on, got none")
        return [read_image(image, num_channels=num_channels) for image in images]
    if dataset is not None:
        return list(spread(dataset, NUM_OF_DATASET, num_channels))
    return built_in_images(num_channels)


def spread(images: Images, most: int, num_channels: int) -> Iterator[LoadedImage]:
    """Read at most `most` of the images, spread evenly."""
    for index in np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist():
        if isinstance(images, DetectionDataset):
            yield images.image(index, num_channels=num_channels)
        else:
            yield read_image(images[index], num_channels=num_channels)


def _to_calibrate(
    images: Sequence[Any] | None, data: Data | None, dataset: DetectionDataset | None, *, on_bad_image: str
) -> Images:
    """Return the given images, otherwise the dataset's "train" split, otherwise the split that AP is measured on."""
    if images is not None:
        if not images:
            raise InputError("expected at least one image to calibrate on, got none")
        return images
    assert data is not None and dataset is not None  # `complete` requires images or data
    if isinstance(data, DetectionDataset):
        return dataset
    try:
        return open_dataset(data, split="train", on_bad_image=on_bad_image)
    except MissingSplitError:
        return dataset


def _feed(image: LoadedImage, job: Job) -> Feed:
    feed = {IMAGES: preprocess(image, job.metadata.size_hw)[None]}
    return feed if job.options.postprocess == "raw" else {**feed, SIZES: np.array([size_of(image)])}
