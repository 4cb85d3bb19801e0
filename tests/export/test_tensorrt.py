"""TensorRT: everything except its builder, which needs an NVIDIA GPU; a fake builder records the calls."""

import enum
import importlib
import sys
import types

import onnx
import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.errors import ConfigError, ExportError, WeightsError
from rtdetr.export import EngineOptions, ExportOptions, Source, export
from rtdetr.models import build_model
from rtdetr.runtimes.engine_file import read_engine
from rtdetr.weights import save_weights
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
        sys.modules.pop("rtdetr.export.tensorrt", None)
        return recorder, importlib.import_module("rtdetr.export.tensorrt")

    yield install
    sys.modules.pop("rtdetr.export.tensorrt", None)


@pytest.fixture(scope="module")
def model():
    return build_model("test-tiny", num_classes=3).eval()


def exported(model, path, settings, **engine):
    options = ExportOptions(format="tensorrt", engine=EngineOptions(**engine), **settings)
    return export(Source(model, CATEGORIES), path, options=options)


def compiled(graph, path, **engine):
    ranges = {"dynamic_batch": True} if "batch" in engine else {}
    options = ExportOptions(format="tensorrt", engine=EngineOptions(**engine), **ranges)
    return export(graph, path, options=options)


def test_an_engine_with_its_description(fake, model, tmp_path, caplog) -> None:
    recorder, _ = fake()
    cache = tmp_path / "cache"
    with caplog.at_level("INFO"):
        result = exported(
            model,
            tmp_path / "model.engine",
            {"dynamic_batch": True},
            timing_cache=cache,
            workspace_gib=1,
        )
    header, engine = read_engine(result.path)
    assert engine == b"an engine" and header.metadata == result.metadata
    assert (header.tensorrt, header.gpu, header.compute_capability) == ("10.3.0", "NVIDIA A10", "8.6")
    assert recorder.calls["flags"] == 1 << Flag.STRONGLY_TYPED and recorder.calls["workspace"] == 1 << 30
    assert recorder.calls["images"] == ((1, 3, 64, 64), (1, 3, 64, 64), (8, 3, 64, 64))
    assert recorder.calls["orig_target_sizes"] == ((1, 2), (1, 2), (8, 2))
    assert cache.read_bytes() == b"measured" and recorder.calls["known"] == b""
    assert (
        "trtexec --onnx=model.onnx --saveEngine=model.engine" in caplog.text
        and "--stronglyTyped --memPoolSize=workspace:1024" in caplog.text
    )
    assert "--maxShapes=images:8x3x64x64,orig_target_sizes:8x2" in caplog.text
    exported(model, tmp_path / "model.engine", {}, timing_cache=cache)
    assert recorder.calls["known"] == b"measured"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_gathers_and_half_precision_has_islands(fake, model, tmp_path, precision) -> None:
    recorder, _ = fake()
    exported(model, tmp_path / "model.engine", {"precision": precision})
    graph = recorder.calls["graph"].graph
    kinds = {node.op_type for node in graph.node}
    assert "GridSample" not in kinds and "LayerNormalization" in kinds
    types_of_weights = {tensor.data_type for tensor in graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types_of_weights) == (precision == "fp16")
    assert onnx.TensorProto.FLOAT in types_of_weights


FREE = {"dynamic_batch": True, "dynamic_size": True}


def test_ranges(fake, model, tmp_path) -> None:
    recorder, _ = fake()
    ranges = {"batch": (2, 4, 16), "height": (64, 96, 128), "width": (64, 64, 160)}
    exported(model, tmp_path / "a.engine", FREE, **ranges)
    assert recorder.calls["images"] == ((2, 3, 64, 64), (4, 3, 96, 64), (16, 3, 128, 160))
    exported(model, tmp_path / "a.engine", FREE | {"size_hw": (128, 96)})
    assert recorder.calls["images"] == ((1, 3, 64, 32), (1, 3, 128, 96), (8, 3, 256, 192))


@pytest.mark.parametrize(
    ("settings", "engine", "message"),
    [
        (
            FREE,
            {"batch": (3, 2, 8)},
            r"batch \(--batch-range\): expected 1 <= minimum <= optimum <= maximum, got 3,2,8",
        ),
        (FREE, {"batch": (0, 1, 8)}, "minimum <= optimum <= maximum"),
        (FREE, {"width": (64, 80, 96)}, r"width \(--size-range\): expected multiples of 32"),
        (FREE, {"width": (96, 96, 128)}, "excludes the model's own size 64"),
        (FREE, {"height": (32, 64, 64), "width": (32, 64, 64)}, "32x32 have 21 tokens, fewer than the 30 queries"),
        ({}, {"batch": (1, 2, 4)}, "needs dynamic_batch"),
        ({}, {"width": (64, 64, 96)}, "needs dynamic_size"),
        ({}, {"workspace_gib": 0}, "workspace_gib"),
    ],
)
def test_invalid_ranges(fake, model, tmp_path, settings, engine, message) -> None:
    fake()
    with pytest.raises(ConfigError, match=message):
        exported(model, tmp_path / "model.engine", settings, **engine)
    assert list(tmp_path.iterdir()) == []


def onnx_file(model, path, **settings):
    export(Source(model, CATEGORIES), path, options=ExportOptions(**settings))
    return path


def test_an_onnx_file_is_compiled_as_it_is(fake, model, tmp_path) -> None:
    recorder, module = fake()
    graph = onnx_file(model, tmp_path / "model.onnx", gather_only=True, precision="fp16", dynamic_batch=True)
    result = compiled(graph, tmp_path / "model.engine", batch=(1, 2, 3))
    assert recorder.calls["images"] == ((1, 3, 64, 64), (2, 3, 64, 64), (3, 3, 64, 64))
    assert recorder.calls["graph"] == onnx.load(graph)
    header, _ = read_engine(result.path)
    assert header.metadata.precision == "float16" and header.metadata.categories == CATEGORIES
    with pytest.raises(ConfigError, match=r"the graph has the fixed height 64, got the range 64,64,96"):
        module.compile_onnx(graph, tmp_path / "b.engine", engine=EngineOptions(height=(64, 64, 96)))


def test_onnx_files_that_cannot_be_compiled(fake, model, tmp_path) -> None:
    fake()
    graph, target = onnx_file(model, tmp_path / "model.onnx"), tmp_path / "model.engine"
    with pytest.raises(ExportError, match="export it with --gather-only"):
        compiled(graph, target)
    with pytest.raises(ConfigError, match=r"ending in \.engine"):
        compiled(graph, tmp_path / "model.plan")
    proto = onnx.load(graph)
    del proto.metadata_props[:]
    onnx.save(proto, graph)
    with pytest.raises(WeightsError, match="not written by rtdetr"):
        compiled(graph, target)
    graph.write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="cannot be read by onnx"):
        compiled(graph, target)
    with pytest.raises(WeightsError, match="no such ONNX file"):
        compiled(tmp_path / "absent.onnx", target)
    assert not target.exists()


def test_the_command_line(fake, model, tmp_path, monkeypatch) -> None:
    recorder, _ = fake()
    monkeypatch.chdir(tmp_path)
    graph = onnx_file(model, tmp_path / "model.onnx", gather_only=True, dynamic_batch=True, dynamic_size=True)
    limits = ["--batch-range", "1,4,16", "--size-range", "64,64,96", "--workspace", "0.5", "--timing-cache", "cache"]
    done = CliRunner().invoke(app, ["export", "model.onnx", "--format", "tensorrt", *limits])
    assert done.exit_code == 0, done.output
    assert recorder.calls["workspace"] == 1 << 29 and (tmp_path / "cache").is_file()
    assert recorder.calls["images"] == ((1, 3, 64, 64), (4, 3, 64, 64), (16, 3, 96, 96))
    assert done.stdout.startswith("model.engine: ") and read_engine(tmp_path / "model.engine")
    done = CliRunner().invoke(app, ["export", "model.onnx", "--format", "tensorrt", "--size", "64"])
    assert done.exit_code == 2 and "compiled unchanged" in done.stderr
    save_weights(model, tmp_path / "model.pth", categories=CATEGORIES)
    limits = ["--no-check", "--batch-range", "1,2,4", "--size-range", "64x96,96x96,128x160", "-o", "other.engine"]
    done = CliRunner().invoke(app, ["export", "model.pth", "--format", "tensorrt", *limits])
    assert done.exit_code == 0, done.output
    assert recorder.calls["images"] == ((1, 3, 64, 96), (2, 3, 96, 96), (4, 3, 128, 160))
    assert read_engine(graph.with_name("other.engine"))[0].metadata.size_hw == (96, 96)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"precision": "int8"}, "--symmetric"), ({"precision": "bf16"}, "fp32 or fp16"), ({"preprocess": True}, "resize")],
)
def test_unsupported_options_are_refused(fake, model, tmp_path, settings, message) -> None:
    fake()
    with pytest.raises(ConfigError, match=message):
        exported(model, tmp_path / "model.engine", settings)


def test_failures_are_one_line_and_leave_nothing(fake, model, tmp_path) -> None:
    fake(refuses=True)
    with pytest.raises(ExportError, match=r"TensorRT 10\.3\.0 rejects the graph: no such operator"):
        exported(model, tmp_path / "model.engine", {})
    fake(fails=True)
    with pytest.raises(ExportError, match="could not build"):
        exported(model, tmp_path / "model.engine", {})
    assert list(tmp_path.iterdir()) == []
