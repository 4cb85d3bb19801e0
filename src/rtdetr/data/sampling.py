"""Select and order the images of an epoch: every image once, or images with rare classes more often.

Source: arXiv 1908.03195 (LVIS), appendix B.2, repeat factor sampling.
"""

import numpy as np

from rtdetr.data.annotations import Annotations


def repeat_factors(annotations: Annotations) -> np.ndarray:
    """Return how often each image is used per epoch on average, float64 (n,), at least 1.

    A class in a fraction f of the images has the repeat factor sqrt(t / f), at least 1; an image has the factor of its
    rarest class, or 1 without objects. Crowd regions do not count, because they are not trained on.

    Differs: t is the median fraction of the classes instead of 0.001, which is meant for LVIS and does not change most
    datasets. If all classes are equally frequent, nothing changes.
    """
    num_images, num_classes = len(annotations.image_ids), len(annotations.categories)
    image_of_box = np.repeat(np.arange(num_images), np.diff(annotations.starts))
    counted = ~annotations.iscrowd
    pairs = np.unique(image_of_box[counted] * num_classes + annotations.labels[counted])
    images, labels = np.divmod(pairs, num_classes)
    shares = np.bincount(labels, minlength=num_classes) / num_images
    factors = np.ones(num_images)
    if len(pairs):
        wanted = np.sqrt(np.median(shares[shares > 0]) / np.maximum(shares, 1 / num_images))
        np.maximum.at(factors, images, wanted[labels])
    return factors


def epoch_factors(annotations: Annotations, *, balance: bool, num_unlabelled: int = 0) -> np.ndarray | None:
    """Return how often each image is used per epoch on average, float64 (n,); None if each is used once.

    Args:
        annotations: of the labelled images.
        balance: use images with rare classes more often; see `repeat_factors`.
        num_unlabelled: number of images with pseudo-labels that follow. They are used once per epoch, and the labelled
            ones as often as needed to be at least half of it.
    """
    if not balance and not num_unlabelled:
        return None
    factors = repeat_factors(annotations) if balance else np.ones(len(annotations.image_ids))
    if num_unlabelled:
        factors = np.concatenate([factors * max(num_unlabelled / factors.sum(), 1.0), np.ones(num_unlabelled)])
    return factors


def epoch_order(rng: np.random.Generator, factors: np.ndarray | None, *, num_images: int) -> np.ndarray:
    """Return the indices of the images of an epoch in random order, int64.

    Args:
        rng: source of the order and of the rounding of factors.
        factors: repeat factor per image; None uses each image once. Their sum, rounded down, is the length of every
            epoch, so all epochs have the same number of batches.
        num_images: number of images in the dataset.
    """
    if factors is None:
        return rng.permutation(num_images)
    ends = np.cumsum(factors)
    marks = np.floor(ends + rng.random())  # each factor is rounded down or up at random
    counts = np.diff(marks, prepend=0.0).astype(np.int64)
    order = rng.permutation(np.repeat(np.arange(num_images), counts))
    return order[: epoch_length(factors, num_images=num_images)]


def epoch_length(factors: np.ndarray | None, *, num_images: int) -> int:
    """Return the number of images in an epoch."""
    return num_images if factors is None else int(factors.sum() + 1e-6)
