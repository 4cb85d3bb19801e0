"""The search measures every setting that a file can run, and stores the best one beside it."""

import json

import numpy as np
import pytest

import rtdetr
from rtdetr.benchmark import check_has_streams, measure_throughput, save_best, throughput_table
from rtdetr.benchmark.throughput import Setting, Throughput, shares_of
from rtdetr.errors import ConfigError, InputError
from rtdetr.runtimes import Streams
from rtdetr.runtimes.base import BaseDetector
from tests.benchmark.test_measure import Sleeper
from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_openvino_detector import convert

PHOTO = np.zeros((30, 40, 3), np.uint8)


def measured(file, **options):
    return measure_throughput(
        file.name,
        rtdetr.load(file, device="cpu"),
        [PHOTO],
        open_with=lambda streams: rtdetr.load(file, device="cpu", tuned=streams),
        **{"rounds": 1, "cores": 2, **options},
    )


def settings_of(found: Throughput) -> list[tuple[int, int, int]]:
    return [tuple(one.streams.model_dump().values()) for one in found.settings]


def test_streams_share_the_cores():
    assert shares_of(1) == [(1, 1)]
    assert shares_of(2) == [(1, 2), (2, 1)]
    assert shares_of(7) == [(1, 7), (2, 3), (4, 1), (7, 1)]
    assert shares_of(16) == [(1, 16), (2, 8), (4, 4), (8, 2), (16, 1)]
    assert all(streams * threads <= cores for cores in range(1, 200) for streams, threads in shares_of(cores))


def test_every_setting_that_a_file_can_run(tmp_path, monkeypatch):
    sizes = []
    read = BaseDetector.read
    monkeypatch.setattr(BaseDetector, "read", lambda self, source: sizes.append(id(source)) or read(self, source))
    file = save_graph(tmp_path / "dynamic.onnx", make_metadata(dynamic_batch=True))
    found = measured(file, batch_sizes=(2,))
    assert settings_of(found) == [(1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 1, 2)]
    assert found.settings[0].ratio == 1
    assert all(min(one.latency_ms, one.network_images_per_second, one.images_per_second) > 0 for one in found.settings)
    assert len(set(sizes)) >= 16  # each image of a list is opened, although there is one photo
    four = save_graph(tmp_path / "four.onnx", batch=4)
    assert settings_of(measured(four)) == [(1, 2, 4), (2, 1, 4)]
    for path, metadata in ((four, make_metadata()), (file, make_metadata(dynamic_batch=True))):
        several = settings_of(measured(convert(path, metadata), batch_sizes=(1, 4)))
        assert several == [(1, 2, 4), (2, 1, 4)] if path == four else len(several) == 4
    in_graph = save_graph(tmp_path / "in_graph.onnx", make_metadata(preprocess="in_graph"))
    assert settings_of(measured(in_graph, cores=1)) == [(1, 1, 1)]


def make_found(*speeds: tuple[float, float]) -> Throughput:
    """Results with these latencies and throughputs for one, two, ... streams."""
    settings = [
        Setting(
            streams=Streams(num_streams=place),
            latency_ms=float(latency),
            network_images_per_second=2.0 * throughput,
            images_per_second=float(throughput),
            ratio=throughput / speeds[0][1],
        )
        for place, (latency, throughput) in enumerate(speeds, start=1)
    ]
    return Throughput("model.onnx", "a model", "float32", (64, 96), settings)


def test_the_best_settings():
    found = make_found((10, 100), (20, 150), (30, 151), (9.9, 90))
    assert found.best_throughput.streams.num_streams == 2  # hardly slower than three, and lower latency
    assert found.best_latency.streams.num_streams == 1  # hardly slower than four
    assert make_found((10, 100), (20, 150), (30, 160)).best_throughput.streams.num_streams == 3
    lines = throughput_table(found).splitlines()
    assert lines[0] == "model.onnx: a model"
    assert lines[1].split() == ["streams", "threads", "batch", "latency", "ms", "network/s", "images/s", "ratio"]
    assert lines[3].split() == ["2", "1", "1", "20.0", "300.0", "150.0", "1.50x"]
    assert lines[-2] == "highest throughput: 2 streams of 1 thread, batch size 1: 150.0 images/s (1.50x)"
    assert lines[-1] == "lowest latency: 1 stream of 1 thread, batch size 1: 10.0 ms"
    document = json.loads(json.dumps(found.to_json()))
    assert [row["num_streams"] for row in document["settings"]] == [1, 2, 3, 4]
    assert document["best_throughput"] == document["settings"][1]
    assert (document["size_hw"], document["best_latency"]["batch_size"]) == ([64, 96], 1)


def test_the_best_is_stored_and_used(tmp_path):
    file = save_graph(tmp_path / "model.onnx")
    found = make_found((10, 100), (20, 150))
    stored = save_best(file, found)
    assert stored == tmp_path / "model.onnx.tuned.json"
    values = json.loads(stored.read_text())
    assert (values["images_per_second"], values["ratio"], values["size_hw"]) == (150, 1.5, [64, 96])
    assert rtdetr.load(file, tuned=True).streams == found.best_throughput.streams


def test_bad_requests(tmp_path):
    file = save_graph(tmp_path / "model.onnx")
    for options in ({"rounds": 0}, {"batch_sizes": ()}, {"batch_sizes": (0,)}):
        with pytest.raises(InputError, match="at least 1"):
            measured(file, **options)
    with pytest.raises(InputError, match="exported for images of 64x64 only"):
        measured(file, size_hw=(32, 32))
    with pytest.raises(ConfigError, match=r"sleeper has no streams: only PyTorch models, \.onnx and \.xml files"):
        check_has_streams("sleeper", Sleeper())
    detector = rtdetr.load(file)
    detector.where = "CUDA (ONNX Runtime)"
    with pytest.raises(ConfigError, match="or use --device cpu"):
        check_has_streams(file.name, detector)
