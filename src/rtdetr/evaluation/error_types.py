"""Count the errors of each kind (`error_kinds.py`) and measure the AP50 that each kind costs.

The cost of a kind is the AP50 gained if an oracle corrects only these errors. A localization or class error becomes
correct if its object is not found and no localization or class error with a higher score has the same object;
otherwise it is removed. Duplicate, background and both errors are removed. Missed objects do not count as objects.

Source: TIDE, arXiv 2008.08115, section 2.3, with the oracles of its published tool.
"""

import itertools
from typing import NamedTuple

import numpy as np

from rtdetr.evaluation.error_kinds import DETECTION_KINDS, KINDS
from rtdetr.evaluation.matching import Matches
from rtdetr.evaluation.precision import interpolated_precision


class ErrorTypes(NamedTuple):
    """Errors by kind, of all detections that count for AP, with any score.

    Attributes:
        counts: number of errors of each of `KINDS`.
        ap50_cost: AP50 lost to each kind, as a fraction of 1; None if the dataset has no objects.
    """

    counts: dict[str, int]
    ap50_cost: dict[str, float | None]


def error_types(matches: Matches) -> ErrorTypes:
    """Count all errors by kind, and measure their cost."""
    is_missed = _is_free(matches)
    is_missed[matches.targets[matches.targets >= 0]] = False
    counts = {name: int((matches.kinds == kind).sum()) for kind, name in enumerate(DETECTION_KINDS)}
    counts["missed"] = int(is_missed.sum())
    return ErrorTypes(counts, _costs(matches, is_missed))


def _costs(matches: Matches, is_missed: np.ndarray) -> dict[str, float | None]:
    num_objects = matches.num_objects
    if not num_objects.any():
        return dict.fromkeys(KINDS)
    kept, nothing = ~matches.is_ignored(), np.empty(0, np.int64)
    base = _ap50(matches, kept, corrected=nothing, num_objects=num_objects)
    costs, correctable = {}, _correctable(matches)
    for kind, name in enumerate(DETECTION_KINDS):
        corrected = correctable[matches.kinds[correctable] == kind]
        remaining = kept & (matches.kinds != kind)
        costs[name] = _ap50(matches, remaining, corrected=corrected, num_objects=num_objects) - base
    remaining_objects = num_objects - np.bincount(matches.object_labels[is_missed], minlength=len(num_objects))
    return {**costs, "missed": _ap50(matches, kept, corrected=nothing, num_objects=remaining_objects) - base}


def _is_free(matches: Matches) -> np.ndarray:
    """Whether each object is unmatched, bool (m,)."""
    is_free = np.ones(len(matches.object_labels), dtype=bool)
    is_free[matches.found[matches.found >= 0]] = False
    return is_free


def _correctable(matches: Matches) -> np.ndarray:
    """Rows of errors that a correction makes right: per unmatched object, the one with the highest score."""
    rows = np.flatnonzero(matches.targets >= 0)
    rows = rows[_is_free(matches)[matches.targets[rows]]]
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    _, first = np.unique(matches.targets[rows], return_index=True)
    return rows[first]


def _ap50(matches: Matches, kept: np.ndarray, *, corrected: np.ndarray, num_objects: np.ndarray) -> float:
    """Mean AP50 over the classes with objects.

    Args:
        matches: detections matched with objects.
        kept: bool (n,), detections that count unchanged.
        corrected: rows of detections that count as matches of their targets.
        num_objects: int64 (classes,), number of objects that count.
    """
    if not num_objects.any():
        return 0.0
    corrected_labels = matches.object_labels[matches.targets[corrected]]
    labels, seen = [], []
    for label, (start, stop) in enumerate(itertools.pairwise(matches.class_starts.tolist())):
        own = start + np.flatnonzero(kept[start:stop])
        rows = np.concatenate([own, corrected[corrected_labels == label]])
        is_right = np.arange(len(rows)) >= len(own)
        is_right[: len(own)] = matches.found[own] >= 0
        order = np.lexsort((rows, -matches.scores[rows]))  # for equal scores, the earlier row first
        seen.append(np.flatnonzero(is_right[order]) + 1)
        labels.append(np.full(len(seen[-1]), label))
    true = np.concatenate(labels)
    by_class = interpolated_precision(true, np.ones(len(true), np.int64), np.concatenate(seen), num_objects=num_objects)
    return float(by_class[num_objects > 0].mean())
