"""Times are those of the stages, and a table, plain data and a chart show them."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from rtdetr.benchmark import STAGES, environment, measure, save_chart, table, to_json
from rtdetr.benchmark.measure import peak_memory, sample_photo
from rtdetr.errors import InputError
from rtdetr.runtimes.base import BaseDetector, Batch, RawOutput
from tests.runtimes.graphs import make_metadata, save_graph


class Sleeper(BaseDetector):
    """A network that takes 20 ms an image and notes what it is given."""

    def __init__(self, largest=None):
        super().__init__(make_metadata(model="sleeper", postprocess="raw", dynamic_batch=True))
        self.batch_sizes = 1, largest
        self.seen = []

    def infer(self, batch: Batch) -> RawOutput:
        count = len(batch.pixels)
        self.seen.append(count)
        time.sleep(0.02 * count)
        return RawOutput(np.zeros((count, 2, 3), np.float32), np.ones((count, 2, 4), np.float32))


@pytest.fixture(scope="module")
def found():
    detectors = {"a": Sleeper(), "b": Sleeper(largest=1)}
    photos = [sample_photo(size_wh=(40, 30))]
    found = measure(detectors, photos, batch_sizes=(1, 2), rounds=2, warmup=1, memory_mb={"a": 123.4})
    assert {1, 2} <= set(detectors["a"].seen)
    assert set(detectors["b"].seen) == {1}  # a larger batch runs one by one
    return found


def test_stages(found):
    assert [(one.name, one.batch_size) for one in found] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    for one in found:
        assert list(one.stages) == list(STAGES)
        assert 20 * one.batch_size <= one.stages["network"].p50 <= one.stages["network"].p99 <= one.total.p99
        assert one.total.p50 >= one.stages["network"].p50 > one.stages["postprocess"].p50 > 0
        assert 0 < one.images_per_second <= 50
        assert one.size_hw == (64, 64)
    assert [one.peak_memory_mb for one in found] == [123.4, None, 123.4, None]


def test_table_and_data(found):
    lines = table(found).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:4] == ["model", "runs", "as", "batch"]
    assert lines[1].startswith("a      float32 on CPU at 64x64") and lines[1].endswith(" 123")
    assert lines[2].endswith(" -")
    document = json.loads(json.dumps(to_json(found)))
    assert document["measurements"][3]["stages"]["network"]["p50"] >= 40
    assert document["environment"]["cores"] >= 1


def test_environment_lists_relevant_versions():
    assert {"processor", "cores", "rtdetr", "numpy", "date"} <= set(environment())


def test_chart(found, tmp_path):
    path = save_chart(found, tmp_path / "speed.png")
    with Image.open(path) as picture:
        assert picture.width > picture.height > 100
    with pytest.raises(InputError, match=r"ending in \.png, \.svg or \.pdf"):
        save_chart(found, tmp_path / "speed.txt")


def test_bad_requests():
    for options in ({"rounds": 0}, {"batch_sizes": ()}, {"batch_sizes": (0,)}, {"warmup": -1}):
        with pytest.raises(InputError, match="at least 1"):
            measure({"a": Sleeper()}, [b""], **options)
    with pytest.raises(InputError, match="at least 1"):
        measure({"a": Sleeper()}, [])
    with pytest.raises(InputError, match="exported for images of 64x64 only"):
        measure({"a": Sleeper()}, [sample_photo()], size_hw=(32, 32))
    with pytest.raises(InputError, match="not an image"):
        measure({"a": Sleeper()}, [b"no image"], rounds=1)


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process(tmp_path):
    file = save_graph(tmp_path / "model.onnx")
    used = peak_memory(str(file), options={"num_threads": 1}, batch_size=1)
    assert used is not None and 30 < used < 2000
    assert peak_memory(str(tmp_path / "none.onnx"), options={}, batch_size=1) is None
