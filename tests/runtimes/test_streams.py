"""Lists in several streams give the detections of one stream, in order, and stop cleanly."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rtdetr
from rtdetr.errors import ConfigError, InputError
from rtdetr.runtimes import Streams, openvino_detector
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.options import LoadOptions
from rtdetr.runtimes.outputs import Batch, RawOutput
from rtdetr.runtimes.streams import run_in_threads
from rtdetr.weights import save_weights
from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_onnx_detector import PICTURES
from tests.runtimes.test_openvino_detector import convert
from tests.runtimes.test_torch_detector import make_model

KINDS = ("onnx", "xml", "pth")
IMAGES = [*PICTURES, *np.random.default_rng(0).integers(0, 256, (6, 33, 50, 3), dtype=np.uint8)]  # one of 1x1 pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("streams")
    metadata = make_metadata(dynamic_batch=True, dynamic_size=True)
    file = save_graph(folder / "model.onnx", metadata)
    save_weights(make_model(), folder / "model.pth", categories=rtdetr.Categories.numbered(5))
    return {"onnx": file, "xml": convert(file, metadata), "pth": folder / "model.pth"}


def load(file: Path, num_streams: int, *, batch_size: int = 1) -> BaseDetector:
    streams = Streams(num_streams=num_streams, num_threads=1, batch_size=batch_size)
    return rtdetr.load(file, device="cpu", precision="float32", tuned=streams)


def assert_equal(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 0 and one.image_size_wh == other.image_size_wh
        for field in ("boxes_xyxy", "scores", "labels"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def batch(value: int) -> Batch:
    return Batch(np.full((1, 3, 32, 32), value, np.uint8), np.array([[32, 32]]))


def number(one: Batch | RawOutput) -> int:
    return int(one[0].flat[0])


def output(value: int) -> RawOutput:
    return RawOutput(np.full((1, 2, 3), value, np.float32), np.zeros((1, 2, 4), np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_streams_give_what_one_stream_gives(files, kind, batch_size):
    one, several = (load(files[kind], count, batch_size=batch_size) for count in (1, 3))
    assert several.batch_sizes == (1, batch_size)
    for size_hw in (None, (32, 96)):
        expected = one(IMAGES, threshold=0.0, size_hw=size_hw)
        assert_equal(several(IMAGES, threshold=0.0, size_hw=size_hw), expected)
    single = several(IMAGES[0], threshold=0.0)  # runs on all cores
    np.testing.assert_allclose(single.scores, one(IMAGES[0], threshold=0.0).scores, atol=1e-4)
    assert several([]) == []
    assert_equal(several(IMAGES[:1], threshold=0.0), [single])


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_batch_of_the_call_applies(files, kind, monkeypatch):
    detector, sizes = load(files[kind], 2, batch_size=4), []
    in_streams = type(detector).infer_in_streams

    def noted(self, batches):
        return in_streams(self, (sizes.append(len(one.pixels)) or one for one in batches))

    monkeypatch.setattr(type(detector), "infer_in_streams", noted)
    detector(IMAGES[:8])
    detector(IMAGES[:8], batch_size=3)
    assert sizes == [4, 4, 3, 3, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_image_and_an_early_end_leave_the_detector_usable(files, kind):
    detector = load(files[kind], 2)
    expected = detector(IMAGES, threshold=0.0)
    sources = [*IMAGES[:4], np.zeros(5), *IMAGES[4:]]
    with pytest.raises(InputError, match="image 4 of the list"):
        detector(sources)
    seen = list(detector.detect_each(sources, threshold=0.0))
    assert [isinstance(one, InputError) for one in seen] == [place == 4 for place in range(len(sources))]
    assert_equal([one.detections for one in seen if not isinstance(one, InputError)], expected)
    images = detector.detect_each(IMAGES, threshold=0.0)
    assert_equal([next(images).detections], expected[:1])
    images.close()
    assert_equal(detector(IMAGES, threshold=0.0), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_several_callers_at_once(files, kind):
    detector = load(files[kind], 2, batch_size=2)
    expected = detector(IMAGES, threshold=0.0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: detector(IMAGES, threshold=0.0), range(4)):
            assert_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_keep_the_streams(files, kind):
    detector = load(files[kind], 2, batch_size=2)
    other = copy.deepcopy(detector)
    assert (other.streams, other.batch_sizes) == (detector.streams, (1, 2))
    assert_equal(other(IMAGES, threshold=0.0), detector(IMAGES, threshold=0.0))
    threads = torch.get_num_threads()
    detector.process = -1  # as after a fork
    try:
        assert_equal(detector(IMAGES, threshold=0.0), other(IMAGES, threshold=0.0))
    finally:
        torch.set_num_threads(threads)
    assert detector.streams == (None if kind == "pth" else other.streams)  # PyTorch has one thread there


def test_pytorch_keeps_its_number_of_threads(files):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []
        detector = load(files["pth"], 2)
        infer = detector.infer
        detector.infer = lambda one: seen.append(torch.get_num_threads()) or infer(one)
        images = detector.detect_each(IMAGES)
        next(images)
        images.close()
        with ThreadPoolExecutor(1) as pool:  # a new thread gets the number of the process
            assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (3, 3)
        detector(IMAGES[0])
        assert set(seen[:-1]) == {1} and seen[-1] == 3
    finally:
        torch.set_num_threads(before)


def test_onnx_runtime_shares_the_session_if_it_has_as_many_threads(files):
    detector = rtdetr.load(files["onnx"])
    streams = Streams(num_threads=detector.num_threads, batch_size=2)
    detector = rtdetr.load(files["onnx"], tuned=streams)
    assert detector._session_of_streams() is detector.session
    session = load(files["onnx"], 2)._session_of_streams()
    assert session.get_session_options().intra_op_num_threads == 1
    session = rtdetr.load(files["onnx"], tuned=Streams(num_streams=2, num_threads=3))._session_of_streams()
    assert session.get_session_options().intra_op_num_threads == 5  # four of the pool and two callers


def test_openvino_is_compiled_with_the_settings(files):
    streams = Streams(num_streams=3, num_threads=2)  # OpenVINO limits them to the cores of the machine
    assert openvino_detector._for_lists(streams) == {"NUM_STREAMS": 3, "INFERENCE_NUM_THREADS": 6}
    network = load(files["xml"], 1)._for_many.current
    assert (network.get_property("NUM_STREAMS"), network.get_property("INFERENCE_NUM_THREADS")) == (1, 1)


def test_batches_that_a_file_cannot_run_are_refused(tmp_path):
    file = save_graph(tmp_path / "four.onnx", make_metadata(), batch=4)
    for path in (file, convert(file, make_metadata())):
        expected = rtdetr.load(file)(IMAGES, threshold=0.0)
        streams = Streams(num_streams=2, batch_size=4)
        found = rtdetr.load(path, precision="float32", tuned=streams)(IMAGES, threshold=0.0)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        with pytest.raises(ConfigError, match=r"runs only batches of 4, but the tuned settings have batch size 8"):
            rtdetr.load(path, tuned=Streams(batch_size=8))


def test_threads_run_at_the_same_time_and_in_order():
    meeting = threading.Barrier(3, timeout=60)  # broken unless three batches run at once
    caller, started = threading.get_ident(), []

    def run(one: Batch) -> RawOutput:
        meeting.wait()
        return output(number(one))

    def batches():
        for value in range(12):
            assert threading.get_ident() == caller
            yield batch(value)

    found = list(run_in_threads(run, batches(), num_threads=3, start=lambda: started.append(threading.get_ident())))
    assert [(number(one), number(result)) for one, result in found] == [(value, value) for value in range(12)]
    assert len(set(started)) == 3
    assert list(run_in_threads(run, [], num_threads=3)) == []


@pytest.mark.parametrize("failure", [InputError("broken"), KeyboardInterrupt()])
def test_a_failure_stops_the_rest(failure):
    done = []

    def run(one: Batch) -> RawOutput:
        if number(one) == 2:
            raise failure
        done.append(number(one))
        return output(number(one))

    results = run_in_threads(run, map(batch, range(100)), num_threads=2)
    assert [number(next(results)[1]) for _ in range(2)] == [0, 1]
    with pytest.raises(type(failure)):
        next(results)
    assert len(done) < 8  # those that had begun
    assert not [one for one in threading.enumerate() if one.name.startswith("rtdetr-stream")]


def test_few_batches_are_taken_ahead():
    taken = []
    results = run_in_threads(lambda one: output(0), (taken.append(i) or batch(i) for i in range(50)), num_threads=2)
    for count in range(5):
        next(results)
        assert len(taken) <= count + 4
    results.close()
    assert len(taken) < 10


def test_settings_that_make_no_sense():
    for values in ({"num_streams": 0}, {"batch_size": -1}, {"num_threads": 1.5}, {"threads": 2}):
        with pytest.raises(ConfigError):
            Streams(**values)
    with pytest.raises(ConfigError, match=r"num_threads \(--threads\) cannot be combined with tuned settings"):
        LoadOptions(num_threads=2, tuned=True)
    with pytest.raises(ConfigError, match=r"tuned must be True, False or Streams\(\.\.\.\), got 'yes'"):
        LoadOptions.__post_init__(SimpleNamespace(**{**vars(LoadOptions()), "tuned": "yes"}, _set=lambda *_: None))
