"""Detectors in forked and spawned processes; run by test_processes.py, as a process that forks needs a fresh one."""

import multiprocessing
import sys
import warnings
from typing import Any

import numpy as np

import rtdetr
from rtdetr.detections import Detector

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
SECONDS = 120


def detect(detector: Detector, results: Any) -> None:
    one, several = detector(IMAGE, threshold=0.0), detector([IMAGE] * 3, threshold=0.0)
    assert not isinstance(one, list)
    results.put((one.scores, np.stack([each.scores for each in several])))


def main(files: list[str]) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: of forks with threads
    for file in files:
        for method in multiprocessing.get_all_start_methods():
            detector = rtdetr.load(file, precision="float32", num_threads=2)
            expected = detector(IMAGE, threshold=0.0)
            detector([IMAGE] * 3, threshold=0.0)
            context = multiprocessing.get_context(method)
            results = context.Queue()
            child = context.Process(target=detect, args=(detector, results), daemon=True)
            child.start()
            for found in results.get(timeout=SECONDS):
                np.testing.assert_allclose(found, np.broadcast_to(expected.scores, found.shape), atol=1e-5)
            child.join(SECONDS)
            assert child.exitcode == 0, f"{file} by {method}: exit status {child.exitcode}"
            after = detector(IMAGE, threshold=0.0)
            np.testing.assert_array_equal(after.scores, expected.scores)
            print("right in another process:", method, file)


if __name__ == "__main__":
    main(sys.argv[1:])
