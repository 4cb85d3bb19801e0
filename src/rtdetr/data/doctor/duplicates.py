"""Find duplicate and near-duplicate images by file content and by thumbnails.

Two images are near duplicates if their 16x16 gray thumbnails, normalized to the same mean and contrast, differ little
in every cell. This finds other sizes, compressions and brightnesses of an image, but not cropped, mirrored or rotated
versions, and it distinguishes images that differ in one visible object. Candidate pairs are found by the correlation of
8x8 thumbnails, which is one matrix product for all pairs.

Differs: the usual difference hash (signs of differences between neighbors) matches any two images on a uniform
background, and datasets of such images would be compared pair by pair for hours.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rtdetr.data.doctor.images import ImageFacts

_MEAN_LEVELS, _MAX_LEVELS = 3.0, 20.0  # of 255, mean and maximum difference over the cells of the thumbnail
_MIN_CORRELATION = 0.97
_EVEN = 16.0  # levels; lower contrast counts as noise, so uniform images correlate
_ROWS = 256  # images compared with all others at a time
_MAX_COMPARED = 512  # images that correlate with one and are compared with it, the nearest first


def same_files(facts: Sequence[ImageFacts]) -> list[list[int]]:
    """Return groups of two or more positions with identical files; each group ascending."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for position, one in enumerate(facts):
        if one.usable:
            groups[one.digest].append(position)
    return [group for group in groups.values() if len(group) > 1]


def near_groups(facts: Sequence[ImageFacts]) -> list[list[int]]:
    """Return groups of two or more positions of near duplicates of the first in the group, without overlap.

    The time grows with the square of the number of images: about a minute on one core for 100,000.
    """
    positions = np.array([position for position, one in enumerate(facts) if one.usable], dtype=np.int64)
    if len(positions) < 2:
        return []
    thumbs = np.stack([facts[p].thumb for p in positions])
    vectors = _vectors(thumbs)
    thumbs = thumbs.reshape(len(positions), -1)
    groups = []
    free = np.arange(len(positions))
    while len(free) > 1:
        correlation = vectors[free[:_ROWS]] @ vectors[free].T
        taken = np.zeros(len(free), dtype=bool)
        for row in np.flatnonzero((correlation >= _MIN_CORRELATION).sum(axis=1) > 1):
            if taken[row]:
                continue
            taken[row] = True
            others = np.flatnonzero((correlation[row] >= _MIN_CORRELATION) & ~taken)
            others = others[others > row]
            if len(others) > _MAX_COMPARED:
                others = np.sort(others[np.argpartition(-correlation[row, others], _MAX_COMPARED)[:_MAX_COMPARED]])
            alike = others[_look_alike(thumbs[free[row]], thumbs[free[others]])]
            taken[alike] = True
            if len(alike):
                groups.append(positions[free[[row, *alike]]].tolist())
        taken[:_ROWS] = True
        free = free[~taken]
    return groups


def _vectors(thumbs: np.ndarray) -> np.ndarray:
    """Return unit vectors, float32 (n, 65), of (n, 16, 16) levels; a dot product approximates the correlation."""
    cells = thumbs.reshape(len(thumbs), 8, 2, 8, 2).mean(axis=(2, 4), dtype=np.float32).reshape(len(thumbs), 64)
    cells -= cells.mean(axis=1, keepdims=True)
    vectors = np.concatenate([cells, np.full((len(cells), 1), _EVEN, dtype=np.float32)], axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _look_alike(thumb: np.ndarray, others: np.ndarray) -> np.ndarray:
    reference = thumb - thumb.mean(dtype=np.float32)
    levels = others - others.mean(axis=1, keepdims=True, dtype=np.float32)
    contrast = levels @ reference / np.maximum((levels**2).sum(axis=1), 1.0)
    differences = np.abs(levels * contrast.clip(0.8, 1.25)[:, None] - reference)
    return (differences.mean(axis=1) <= _MEAN_LEVELS) & (differences.max(axis=1) <= _MAX_LEVELS)
