"""Which images an epoch shows, and in which order: every one once, or those with rare classes more often.

Source: arXiv 1908.03195 (LVIS), appendix B.2, repeat factor sampling.
"""

import numpy as np

from rtdetr.data.annotations import Annotations


def repeat_factors(annotations: Annotations) -> np.ndarray:
    """How often each image is shown in an epoch on average, float64 (n,), at least 1.

    A class in a share f of the images asks for sqrt(t / f) showings of these; an image is shown as often as its rarest
    class asks for. Images without objects, and classes with more than the share t, ask for one. Crowd regions do not
    count, because they are not trained.

    Differs: t is the median of the classes' shares instead of 0.001, which suits LVIS and leaves most datasets as they
    are. In a dataset whose classes are equally frequent nothing changes.
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


def epoch_order(rng: np.random.Generator, factors: np.ndarray | None, *, num_images: int) -> np.ndarray:
    """Indices of the images of an epoch in random order, int64.

    Args:
        rng: the order, and which images get a showing more, come from here.
        factors: of each image; None shows each once. The sum, rounded down, is the length of every epoch, so all of
            them have as many batches.
        num_images: in the dataset.
    """
    if factors is None:
        return rng.permutation(num_images)
    ends = np.cumsum(factors)
    marks = np.floor(ends + rng.random())  # each image has its factor's whole part of marks, and one more by chance
    counts = np.diff(marks, prepend=0.0).astype(np.int64)
    order = rng.permutation(np.repeat(np.arange(num_images), counts))
    return order[: epoch_length(factors, num_images=num_images)]


def epoch_length(factors: np.ndarray | None, *, num_images: int) -> int:
    """Images shown in an epoch."""
    return num_images if factors is None else int(factors.sum() + 1e-6)
