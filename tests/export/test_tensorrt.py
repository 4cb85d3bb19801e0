"""TensorRT: everything around the builder, which runs only beside an NVIDIA GPU; a stand-in records its calls."""

import enum
import importlib
import sys
import types

import onnx
import pytest

from rtdetr.errors import ConfigError, ExportError
from rtdetr.export import ExportOptions
from rtdetr.export.export import Source, describe
from rtdetr.models import build_model
from rtdetr.runtimes.engine_file import read_engine
from tests.export.trained import CATEGORIES


class Flag(enum.IntEnum):
    STRONGLY_TYPED = 1


class Recorder:
    """Stands in for the module `tensorrt`: remembers what it was asked, and builds an engine of nine bytes."""

    __version__ = "10.3.0"
    NetworkDefinitionCreationFlag = Flag
    MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, *, refuses: bool = False, fails: bool = False) -> None:
        self.refuses, self.fails, self.calls = refuses, fails, {}

    def module(self) -> types.ModuleType:
        module = types.ModuleType("tensorrt")
        for name in ("__version__", "NetworkDefinitionCreationFlag", "MemoryPoolType"):
            setattr(module, name, getattr(self, name))
        logger = type("Logger", (), {"WARNING": 1, "__init__": lambda *_: None})
        for name, value in (("Logger", logger), ("Builder", self.builder), ("OnnxParser", self.parser)):
            setattr(module, name, value)
        return module

    def builder(self, logger):
        return types.SimpleNamespace(
            create_network=lambda flags: self.calls.__setitem__("flags", flags),
            create_builder_config=self.config,
            create_optimization_profile=lambda: types.SimpleNamespace(
                set_shape=lambda name, *shapes: self.calls.__setitem__(name, shapes)
            ),
            build_serialized_network=lambda network, config: None if self.fails else b"an engine",
        )

    def config(self):
        cache = types.SimpleNamespace(serialize=lambda: b"measured")
        return types.SimpleNamespace(
            set_memory_pool_limit=lambda pool, size: self.calls.__setitem__(pool, size),
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=lambda known: self.calls.__setitem__("known", known),
            set_timing_cache=lambda cache, ignore_mismatch: True,
            get_timing_cache=lambda: cache,
        )

    def parser(self, network, logger):
        def parse(file: str) -> bool:
            self.calls["graph"] = onnx.load(file)
            return not self.refuses

        error = types.SimpleNamespace(desc=lambda: "no such operator")
        return types.SimpleNamespace(parse_from_file=parse, num_errors=1, get_error=lambda i: error)


@pytest.fixture
def fake(monkeypatch):
    """Return a function that puts a recorder in place and gives it with the exporter that uses it."""

    def install(**options):
        recorder = Recorder(**options)
        memory = types.ModuleType("rtdetr.runtimes.cuda_memory")
        stream = types.SimpleNamespace(gpu="NVIDIA A10", compute_capability="8.6")
        memory.Stream = lambda device: stream  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "tensorrt", recorder.module())
        monkeypatch.setitem(sys.modules, "rtdetr.runtimes.cuda_memory", memory)
        monkeypatch.delitem(sys.modules, "rtdetr.export.tensorrt", raising=False)
        return recorder, importlib.import_module("rtdetr.export.tensorrt")

    yield install
    sys.modules.pop("rtdetr.export.tensorrt", None)


@pytest.fixture(scope="module")
def model():
    return build_model("test-tiny", num_classes=3).eval()


def exported(module, model, path, settings, **more):
    options = ExportOptions(format="tensorrt", **settings)
    metadata = describe(Source(model, CATEGORIES), options)
    return module.export_tensorrt(model, path, options=options, metadata=metadata, **more)


def test_an_engine_with_its_description(fake, model, tmp_path, caplog) -> None:
    recorder, module = fake()
    cache = tmp_path / "cache"
    with caplog.at_level("INFO"):
        result = exported(
            module,
            model,
            tmp_path / "model.engine",
            {"dynamic_batch": True},
            timing_cache=cache,
            workspace_bytes=1 << 30,
        )
    header, engine = read_engine(result.path)
    assert engine == b"an engine" and header.metadata == result.metadata
    assert (header.tensorrt, header.gpu, header.compute_capability) == ("10.3.0", "NVIDIA A10", "8.6")
    assert recorder.calls["flags"] == 1 << Flag.STRONGLY_TYPED and recorder.calls["workspace"] == 1 << 30
    assert recorder.calls["images"] == ((1, 3, 64, 64), (1, 3, 64, 64), (8, 3, 64, 64))
    assert recorder.calls["orig_target_sizes"] == ((1, 2), (1, 2), (8, 2))
    assert cache.read_bytes() == b"measured" and recorder.calls["known"] == b""
    assert "trtexec --onnx=" in caplog.text and "--stronglyTyped --memPoolSize=workspace:1024" in caplog.text
    assert "--maxShapes=images:8x3x64x64,orig_target_sizes:8x2" in caplog.text
    exported(module, model, tmp_path / "model.engine", {}, timing_cache=cache)
    assert recorder.calls["known"] == b"measured"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_gathers_and_half_precision_has_islands(fake, model, tmp_path, precision) -> None:
    recorder, module = fake()
    exported(module, model, tmp_path / "model.engine", {"precision": precision})
    graph = recorder.calls["graph"].graph
    kinds = {node.op_type for node in graph.node}
    assert "GridSample" not in kinds and "LayerNormalization" in kinds
    types_of_weights = {tensor.data_type for tensor in graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types_of_weights) == (precision == "fp16")
    assert onnx.TensorProto.FLOAT in types_of_weights


def test_ranges(fake, model, tmp_path) -> None:
    recorder, module = fake()
    ranges = module.Ranges(module.Range(2, 4, 16), module.Range(64, 96, 128), module.Range(64, 64, 160))
    exported(module, model, tmp_path / "a.engine", {"dynamic_batch": True, "dynamic_size": True}, ranges=ranges)
    assert recorder.calls["images"] == ((2, 3, 64, 64), (4, 3, 96, 64), (16, 3, 128, 160))
    for wrong in ((3, 2, 8), (0, 1, 8)):
        with pytest.raises(ConfigError, match="least <= usual <= most"):
            exported(module, model, tmp_path / "b.engine", {}, ranges=ranges._replace(batch=module.Range(*wrong)))
    with pytest.raises(ConfigError, match="multiples of 32"):
        exported(module, model, tmp_path / "b.engine", {}, ranges=ranges._replace(width=module.Range(64, 80, 96)))
    assert not (tmp_path / "b.engine").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"precision": "int8"}, "--symmetric"), ({"precision": "bf16"}, "fp32 or fp16"), ({"preprocess": True}, "resize")],
)
def test_what_the_format_has_not_is_refused(fake, model, tmp_path, settings, message) -> None:
    _, module = fake()
    with pytest.raises(ExportError, match=message):
        exported(module, model, tmp_path / "model.engine", settings)


def test_failures_are_one_line_and_leave_nothing(fake, model, tmp_path) -> None:
    _, module = fake(refuses=True)
    with pytest.raises(ExportError, match=r"TensorRT 10\.3\.0 refuses the graph: no such operator"):
        exported(module, model, tmp_path / "model.engine", {})
    _, module = fake(fails=True)
    with pytest.raises(ExportError, match="could not build"):
        exported(module, model, tmp_path / "model.engine", {})
    assert list(tmp_path.iterdir()) == []
