"""Shared by all tests: shapes are checked against the signatures, and no test sees another one's random numbers."""

import gc
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# wraps functions of modules that are imported from here on, so no test may import them earlier
install_import_hook(
    [
        f"rtdetr.{room}"
        for room in ("boxes", "data", "evaluation", "losses", "models", "runtimes", "structures", "training", "weights")
    ],
    "beartype.beartype",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test processes one thread, its own child processes included."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Spare the garbage collector the million objects of imported packages, which stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let extension modules be taken down in order at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _same_random_numbers_in_any_order() -> Iterator[None]:
    """Seed every global generator before a test and give it back as it was."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
