"""Shared by the tests of the Hugging Face API: no progress bars, no reports."""

import pytest

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
