"""Tuned settings are stored beside a model file, and never applied silently where they were not measured."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import rtdetr
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.runtimes import Streams, tuned_file
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.tuned_file import TunedSettings, read_tuned, save_tuned, tuned_path
from rtdetr.weights import save_weights
from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_onnx_detector import PICTURES
from tests.runtimes.test_openvino_detector import convert
from tests.runtimes.test_torch_detector import make_model

STREAMS = Streams(num_streams=2, num_threads=1, batch_size=2)


def save_settings(model: Path, streams: Streams = STREAMS) -> Path:
    measured = {"precision": "float32", "size_hw": (64, 64), "images_per_second": 12.5, "ratio": 1.25}
    return save_tuned(model, TunedSettings.of_model(model, streams, **measured))


@pytest.fixture
def file(tmp_path):
    return save_graph(tmp_path / "model.onnx", make_metadata(dynamic_batch=True))


def test_each_file_has_its_own_settings(file, caplog):
    xml, weights = convert(file, make_metadata(dynamic_batch=True)), file.with_suffix(".pth")
    save_weights(make_model(), weights, categories=rtdetr.Categories.numbered(5))
    for count, path in enumerate((file, xml, weights), start=1):
        stored = save_settings(path, Streams(num_streams=count))
        assert stored.name == f"{path.name}.tuned.json"
    for count, path in enumerate((file, xml, weights), start=1):
        detector = rtdetr.load(path, device="cpu", precision="float32", tuned=True)
        assert detector.streams == Streams(num_streams=count)
        assert len(detector(PICTURES, threshold=0.0)) == len(PICTURES)
    assert "lists in 3 streams of 1 thread, batch size 1" in detector.description
    assert rtdetr.load(file).streams is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_without_settings_the_command_is_named(file):
    with pytest.raises(ConfigError, match=rf"^{file} has no tuned settings: {file}\.tuned\.json does not exist"):
        rtdetr.load(file, tuned=True)
    with pytest.raises(ConfigError, match=rf"Measure them with: rtdetr benchmark {file} --throughput --save-tuned$"):
        rtdetr.load(file, tuned=True)


def test_models_that_are_not_files(tmp_path):
    for source, kind in (("test-tiny:untrained", "not a file"), (tmp_path, "a folder")):
        with pytest.raises(ConfigError, match=f"stored beside a model file, and {source} is {kind}: pass the weight"):
            rtdetr.load(source, tuned=True)


@pytest.mark.parametrize("suffix", [".pt2", ".engine"])
def test_runtimes_without_streams_refuse_them(tmp_path, suffix):
    for tuned in (True, STREAMS):
        with pytest.raises(ConfigError, match=rf"tuned \(--tuned\) is not an option for {suffix} models"):
            rtdetr.load(tmp_path / f"model{suffix}", tuned=tuned)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"processor": "Z80"}, "processor Z80, here "),
        ({"cores": 4096}, "number of cores 4096, here "),
        ({"runtime": "onnxruntime 0.1"}, "runtime onnxruntime 0.1, here onnxruntime"),
        ({"precision": "bfloat16"}, "precision bfloat16, here float32"),
        ({"model_sha256": "0" * 64}, "another content of the model file"),
        ({"processor": "Z80", "cores": 4096}, "processor Z80, here "),
    ],
)
def test_one_warning_says_what_differs(file, change, said, caplog):
    stored = save_settings(file)
    stored.write_text(json.dumps(json.loads(stored.read_text()) | change))
    detector = rtdetr.load(file, tuned=True)
    assert detector.streams == STREAMS
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"the tuned settings of {file} were measured on ") and said in warning
    assert warning.count(", here ") + warning.count("another content") == len(change)
    assert warning.endswith(f"rtdetr benchmark {file} --throughput --save-tuned")


def test_a_model_that_was_exported_again(file, caplog):
    save_settings(file)
    save_graph(file, make_metadata(dynamic_batch=True, model="another"))
    rtdetr.load(file, tuned=True)
    assert "another content of the model file" in caplog.text
    save_graph(file, make_metadata())  # its batch is fixed to 1
    with pytest.raises(ConfigError, match=r"runs only batches of 1, but the tuned settings have batch size 2"):
        rtdetr.load(file, tuned=True)
    file.unlink()
    with pytest.raises(ConfigError, match=f"{file} is not a file"):
        rtdetr.load(file, tuned=True)


def test_other_devices_refuse_them(file, monkeypatch):
    opened = OnnxDetector.__init__

    def on_gpu(self, path, options):
        opened(self, path, options)
        self.where = "CUDA (ONNX Runtime)"

    monkeypatch.setattr(OnnxDetector, "__init__", on_gpu)
    with pytest.raises(ConfigError, match=r"tuned settings are for CPUs, and .* runs on CUDA .*: add --device cpu"):
        rtdetr.load(file, tuned=STREAMS)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "5", '{"format_version": 1', '{"format_version": 1, "streams": {"num_streams": 0}}', "\0\1"],
)
def test_a_damaged_file_is_refused(file, text):
    tuned_path(file).write_text(text)
    with pytest.raises(ConfigError, match=r"model\.onnx\.tuned\.json"):
        rtdetr.load(file, tuned=True)


def test_values_of_another_type_and_newer_files(file):
    stored = save_settings(file)
    values = json.loads(stored.read_text())
    for changes, said in (
        ({"cores": "2"}, "does not contain tuned settings: .*cores"),
        ({"color": 1}, "does not contain tuned settings: .*color"),
        ({"format_version": 2}, "its format 2 is newer than 1; upgrade rtdetr"),
    ):
        stored.write_text(json.dumps(values | changes))
        with pytest.raises(ConfigError, match=said):
            read_tuned(file)


def test_a_folder_that_cannot_be_written(file, monkeypatch):
    monkeypatch.setattr(tuned_file, "tuned_path", lambda model: model / "below" / "a.json")
    with pytest.raises(ConfigError, match="cannot write"):
        save_settings(file)


def test_other_processes_use_what_was_read(file):
    """A copy opens the model again, but not its settings, which may have changed or be gone."""
    stored = save_settings(file)
    detector = rtdetr.load(file, tuned=True)
    content = pickle.dumps(detector)
    stored.unlink()
    again = pickle.loads(content)
    assert again.streams == STREAMS
    for one, other in zip(again(PICTURES, threshold=0.0), detector(PICTURES, threshold=0.0), strict=True):
        assert np.array_equal(one.scores, other.scores)
    file.unlink()
    with pytest.raises(WeightsError):
        pickle.loads(content)
