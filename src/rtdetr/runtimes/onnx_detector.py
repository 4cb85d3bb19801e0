"""Detection with ONNX Runtime: `.onnx` and `.ort` files, on the CPU or an NVIDIA GPU. Needs no torch."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime

from rtdetr.errors import ConfigError, WeightsError
from rtdetr.machine import num_cores
from rtdetr.preprocessing import scale
from rtdetr.runtimes.graph_form import (
    IMAGES,
    OUTPUTS,
    SIZES,
    Port,
    Shape,
    batch_sizes,
    check_precision,
    describe,
    existing,
    output_of,
    reason,
    unreadable,
)
from rtdetr.runtimes.metadata import KEY
from rtdetr.runtimes.options import DEFAULTS, LoadOptions
from rtdetr.runtimes.outputs import Batch, Output
from rtdetr.runtimes.processes import FileDetector
from rtdetr.runtimes.streams import run_in_threads

_CUDA = "CUDAExecutionProvider"
_WRONG_IN_FLOAT16 = "1.18."  # measured on CPUs: detections are wrong and vary from run to run


class OnnxDetector(FileDetector):
    """A detector that runs an `.onnx` file; `rtdetr.load` documents the arguments.

    Args:
        path: a file written by `rtdetr export --format onnx`, or one with the published inputs and outputs; also after
            processing by ONNX Runtime's tools, such as an `.ort` file.
        options: `device` is "auto" (the first CUDA device if onnxruntime-gpu is installed and works, otherwise the
            CPU), "cpu", "cuda" or "cuda:1"; `precision` is "auto" or the precision of the file.

    Raises:
        ConfigError: there is no such device, the precision differs from the file's, or this release of ONNX Runtime
            gives wrong results in it.
        WeightsError: the file is missing, damaged or not a supported model.
    """

    def __init__(self, path: Path, options: LoadOptions = DEFAULTS) -> None:
        existing(path, kind="ONNX")
        self.session = _session(path, device=options.device, num_threads=options.num_threads)
        self.where = f"{'CUDA' if _CUDA in self.session.get_providers() else 'CPU'} (ONNX Runtime)"
        inputs = {node.name: Port(_shape(node.shape), _dtype(node.type)) for node in self.session.get_inputs()}
        metadata = describe(
            _description(self.session, path),
            source=path,
            inputs=inputs,
            outputs={node.name: _shape(node.shape) for node in self.session.get_outputs()},
            categories=options.categories,
        )
        check_precision(options.precision, metadata, source=path)
        if metadata.precision == "float16" and onnxruntime.__version__.startswith(_WRONG_IN_FLOAT16):
            raise ConfigError(
                f"{path} is in float16, which gives wrong results in ONNX Runtime {onnxruntime.__version__}; run: "
                "pip install 'onnxruntime>=1.20.1'"
            )
        super().__init__(metadata, options)
        self.batch_sizes = batch_sizes(inputs[IMAGES].shape, metadata)
        self.num_threads = self.session.get_session_options().intra_op_num_threads or num_cores()
        self._dtypes = {name: port.dtype for name, port in inputs.items()}
        self.use_streams(options.streams)
        self._stream_session: onnxruntime.InferenceSession | None = None
        self._opening = Lock()

    def infer(self, batch: Batch) -> Output:
        """Run the network and wait for its result."""
        return self._run(self.session, batch)

    def infer_in_streams(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run the network on many batches, in order and several at once."""
        assert self.streams is not None
        run = partial(self._run, self._session_of_streams())
        return run_in_threads(run, batches, num_threads=self.streams.num_streams)

    def _session_of_streams(self) -> onnxruntime.InferenceSession:
        """Return the session for lists, opened for the first one; that for single images if it has as many threads."""
        assert self.streams is not None
        # runs of one session share its pool of threads, which has one less than this; the callers are the others
        num_threads = self.streams.num_streams * (self.streams.num_threads - 1) + 1
        if num_threads == self.num_threads:
            return self.session
        with self._opening:
            if self._stream_session is None:
                self._stream_session = _session(self.path, device="cpu", num_threads=num_threads)
            return self._stream_session

    def _run(self, session: onnxruntime.InferenceSession, batch: Batch) -> Output:
        images = batch.pixels if self.metadata.preprocess == "in_graph" else scale(batch.pixels)
        values = {IMAGES: images, SIZES: batch.padded_sizes_wh}
        feed = {name: values[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        try:
            found: Any = session.run(OUTPUTS[self.metadata.postprocess], feed)
        except Exception as error:  # onnxruntime has no common base class for its exceptions
            raise WeightsError(f"{self.description} failed: {reason(error)}") from None
        return output_of(found, self.metadata)


def _session(path: Path, *, device: str, num_threads: int | None) -> onnxruntime.InferenceSession:
    kind, _, number = device.partition(":")
    available = onnxruntime.get_available_providers()
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"unknown device {device!r} for ONNX Runtime; expected 'auto', 'cpu', 'cuda' or 'cuda:1'")
    if kind == "cuda" and _CUDA not in available:
        raise ConfigError(
            f"device {device!r} is not available: this ONNX Runtime has no CUDA provider. Use 'cpu', or run: "
            "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        )
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind != "cpu" and _CUDA in available:
        providers.insert(0, (_CUDA, {"device_id": number or "0"}))
        if hasattr(onnxruntime, "preload_dlls"):  # 1.21 and later
            onnxruntime.preload_dlls()  # CUDA libraries from pip packages
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions as well, and its warnings are not useful to users
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=providers, enable_fallback=len(providers) > 1
        )
    except Exception as error:  # onnxruntime has no common base class for its exceptions
        raise unreadable(path, engine="ONNX Runtime", error=error) from None
    if kind == "cuda" and _CUDA not in session.get_providers():
        raise ConfigError(f"ONNX Runtime cannot use {device!r}, because its CUDA libraries do not load; use 'cpu'")
    return session


def _description(session: onnxruntime.InferenceSession, path: Path) -> str | None:
    try:
        return session.get_modelmeta().custom_metadata_map.get(KEY)
    except UnicodeDecodeError as error:
        raise unreadable(path, engine="ONNX Runtime", error=error) from None


def _dtype(kind: str) -> str:
    """Return NumPy's name of a type like "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _shape(shape: list[Any]) -> Shape:
    """Return a shape with None for dynamic axes, which have a name or nothing in ONNX."""
    return tuple(side if isinstance(side, int) and side > 0 else None for side in shape)
