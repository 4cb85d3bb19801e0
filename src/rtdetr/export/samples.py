"""Images to compare two models on, and those to calibrate INT8 on."""

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
from rtdetr.wording import counted

NUM_OF_DATASET = 8  # its images that are compared
Data = str | os.PathLike[str] | DetectionDataset
Images = Sequence[Any] | DetectionDataset
Feed = dict[str, np.ndarray]
"""Inputs of a graph, by name."""


class Samples(NamedTuple):
    """What an export is tried on.

    images: to compare detections on.
    dataset: to measure AP on; None: AP is not measured.
    feeds: inputs of the graph to calibrate INT8 on.
    """

    images: list[LoadedImage]
    dataset: DetectionDataset | None = None
    feeds: Sequence[Feed] = ()


def open_samples(job: Job, images: Sequence[Any] | None, data: Data | None, *, on_bad_image: str) -> Samples:
    """Read what an export is tried on; `rtdetr.export.export` documents the arguments.

    Raises:
        InputError: no images, one that cannot be read, or nothing but images of one color to calibrate on.
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
    if all(np.ptp(feed["images"], axis=(2, 3)).max() == 0 for feed in feeds):
        raise InputError(
            f"cannot calibrate on {counted(len(feeds), 'image')} of one color each: give images such as the model is "
            "meant for, a hundred if you can"
        )
    return Samples(compared, dataset, feeds)


def images_to_compare(
    images: Sequence[Any] | None, dataset: DetectionDataset | None, num_channels: int
) -> list[LoadedImage]:
    """The images given, else some of the dataset, else those that come with the library.

    Raises:
        InputError: an empty list, or an image that cannot be read.
    """
    if images is not None:
        if not images:
            raise InputError("expected at least one image to verify the model on, got none")
        return [read_image(image, num_channels=num_channels) for image in images]
    if dataset is not None:
        return list(spread(dataset, NUM_OF_DATASET, num_channels))
    return built_in_images(num_channels)


def spread(images: Images, most: int, num_channels: int) -> Iterator[LoadedImage]:
    """Read at most so many of the images, spread evenly."""
    for index in np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist():
        if isinstance(images, DetectionDataset):
            yield images.image(index, num_channels=num_channels)
        else:
            yield read_image(images[index], num_channels=num_channels)


def _to_calibrate(
    images: Sequence[Any] | None, data: Data | None, dataset: DetectionDataset | None, *, on_bad_image: str
) -> Images:
    """The images given, else those of the dataset to train on, else those that AP is measured on."""
    if images is not None:
        if not images:
            raise InputError("expected at least one image to calibrate on, got none")
        return images
    assert data is not None and dataset is not None  # `complete` has asked for one of them
    if isinstance(data, DetectionDataset):
        return dataset
    try:
        return open_dataset(data, split="train", on_bad_image=on_bad_image)
    except MissingSplitError:
        return dataset


def _feed(image: LoadedImage, job: Job) -> Feed:
    feed = {"images": preprocess(image, job.metadata.size_hw)[None]}
    return feed if job.options.postprocess == "raw" else {**feed, "orig_target_sizes": np.array([size_of(image)])}
