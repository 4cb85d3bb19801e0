"""Detection with OpenVINO: `.xml` files with their `.bin`, on Intel and ARM CPUs and Intel GPUs. Needs no torch.

One image runs on all cores, for the lowest latency. Lists run on several streams at once, which gives a higher
throughput: as single images, with the same result for any `batch_size`, unless tuned settings say otherwise.
"""

import platform
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openvino
from openvino.preprocess import PrePostProcessor

from rtdetr.errors import ConfigError, WeightsError, nearest, one_of
from rtdetr.files import sha256_of, with_suffix_any_case
from rtdetr.machine import has_amx
from rtdetr.runtimes.graph_form import (
    IMAGES,
    OUTPUTS,
    SIZES,
    Port,
    Shape,
    batch_sizes,
    describe,
    existing,
    output_of,
    reason,
    unreadable,
)
from rtdetr.runtimes.metadata import KEY, WEIGHTS_KEY
from rtdetr.runtimes.openvino_core import openvino_core, read_ir
from rtdetr.runtimes.openvino_network import CompiledNetwork
from rtdetr.runtimes.options import DEFAULTS, LoadOptions
from rtdetr.runtimes.outputs import Batch, Output
from rtdetr.runtimes.processes import FileDetector
from rtdetr.runtimes.streams import Streams

TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""OpenVINO's names of precisions."""


class OpenVINODetector(FileDetector):
    """A detector that runs an OpenVINO file; `rtdetr.load` documents the arguments.

    Args:
        path: the `.xml` file written by `rtdetr export --format openvino`, with its `.bin` in the same folder.
        options: `device` is "auto" (the CPU: GPU plugins have given wrong results for this kind of network), "cpu",
            "gpu", "gpu.1" or "npu"; `precision` is the precision of float layers: "float32", "bfloat16", "float16" or
            "auto": bfloat16 on x86 CPUs with AMX, float32 on other x86 CPUs, elsewhere OpenVINO's choice. Quantized
            layers stay quantized.

    Raises:
        ConfigError: there is no such device or precision.
        WeightsError: the file is missing, damaged or not a supported model.
    """

    has_own_streams = True

    def __init__(self, path: Path, options: LoadOptions = DEFAULTS) -> None:
        existing(path, kind="OpenVINO")
        with path.open("rb") as file:
            if b"<net" not in file.read(1000):  # otherwise OpenVINO tries all of its parsers, and some print
                raise WeightsError(f"{path} is not an OpenVINO model: expected XML that begins with <net ...>")
        weights = with_suffix_any_case(path, ".bin")
        if not weights.is_file():
            raise WeightsError(f"{path} has no weights: {weights.name} must be in the same folder; copy both files")
        self._device = _device(options.device, openvino_core())
        settings = _settings(options.precision, self._device, options.num_threads)
        try:
            model = read_ir(path)
            stored, sha256 = (
                str(model.get_rt_info([key]).value) if model.has_rt_info([key]) else None for key in (KEY, WEIGHTS_KEY)
            )
        except Exception as error:  # openvino raises RuntimeError and exceptions of its parsers
            raise unreadable(path, engine="OpenVINO", error=error) from None
        if sha256 is not None and sha256 != sha256_of(weights):
            raise WeightsError(
                f"{path} and {weights.name} are not from the same export: the hash of the weights differs from the "
                "one in the .xml. Copy both files, or export the model again; a tool that changes the weights must "
                f"remove the entry {WEIGHTS_KEY!r} of rt_info"
            )
        inputs = {_name(port, (IMAGES, SIZES)): Port(_shape(port), _dtype(port)) for port in model.inputs}
        metadata = describe(
            stored,
            source=path,
            inputs=inputs,
            outputs={_name(port, (*OUTPUTS["boxes"], *OUTPUTS["raw"])): _shape(port) for port in model.outputs},
            categories=options.categories,
        )
        super().__init__(metadata, options)
        self.batch_sizes = batch_sizes(inputs[IMAGES].shape, metadata)
        if options.streams is not None:
            self.use_streams(options.streams)
        elif self.batch_sizes[0] == 1:
            self.batch_sizes = 1, 1
        self._takes_sizes = SIZES in inputs
        model = _with_conversion(model, inputs) if metadata.preprocess == "external" else model
        self._for_one, self._for_many = (
            CompiledNetwork(partial(_compile, model, self._device, {**settings, **more}))
            for more in ({"PERFORMANCE_HINT": "LATENCY"}, _for_lists(self.streams))  # the latter for the first list
        )
        network = self._for_one.current
        self._alone, self._busy = (network, network.create_infer_request()), Lock()
        self.num_threads = int(network.get_property("INFERENCE_NUM_THREADS")) if self._device == "CPU" else None
        self.where = f"{self._device} (OpenVINO)"

    @property
    def precision(self) -> str:
        """The precision of float layers, after "int8 and" if some layers are quantized."""
        hint = self._for_one.current.get_property("INFERENCE_PRECISION_HINT").to_string()
        precision = next((name for name, short in TYPES.items() if short == hint), hint)
        return f"int8 and {precision}" if self.metadata.precision == "int8" else precision

    def infer(self, batch: Batch) -> Output:
        """Run the network and wait for its result."""
        with self._busy:
            network = self._for_one.ready_for(batch.pixels.shape)
            if network is not self._alone[0]:
                self._alone = network, network.create_infer_request()
            request = self._alone[1]
            self._start(request, batch)
            return self._result(request)

    def infer_in_streams(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Output]]:
        """Run as many batches at once as the compiled network has streams for, in order."""
        network, free = None, deque()
        running: deque[tuple[Batch, Any]] = deque()
        try:
            for batch in batches:
                latest = self._for_many.ready_for(batch.pixels.shape)
                if latest is not network:
                    while running:
                        yield self._oldest(running, free)
                    network, number = latest, latest.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
                    free = deque(latest.create_infer_request() for _ in range(number))
                if not free:
                    yield self._oldest(running, free)
                running.append((batch, free.popleft()))
                self._start(running[-1][1], batch)
            while running:
                yield self._oldest(running, free)
        finally:  # a request must not outlive its images
            for _, request in running:
                request.wait()

    def _start(self, request: Any, batch: Batch) -> None:
        feed = {IMAGES: batch.pixels, SIZES: batch.padded_sizes_wh} if self._takes_sizes else {IMAGES: batch.pixels}
        try:
            request.start_async(feed, share_inputs=True)
        except RuntimeError as error:
            raise self._failure(error) from None

    def _result(self, request: Any) -> Output:
        try:
            request.wait()
        except RuntimeError as error:
            raise self._failure(error) from None
        names = OUTPUTS[self.metadata.postprocess]
        values = [np.array(request.get_tensor(name).data) for name in names]  # copies: the request is reused
        return output_of(values, self.metadata)

    def _oldest(self, running: "deque[tuple[Batch, Any]]", free: "deque[Any]") -> tuple[Batch, Output]:
        batch, request = running.popleft()
        output = self._result(request)
        free.append(request)
        return batch, output

    def _failure(self, error: Exception) -> WeightsError:
        return WeightsError(f"{self.description} failed: {reason(error)}")


def _device(device: str, core: openvino.Core) -> str:
    """Return OpenVINO's name of an available device."""
    name = "CPU" if device == "auto" else device.upper()
    available = core.available_devices
    if name not in available and f"{name}.0" not in available:
        known = ["auto", *(one.lower() for one in available)]
        raise ConfigError(f"OpenVINO has no device {device!r} here.{nearest(device, known)} Known: {', '.join(known)}.")
    return name


def _compile(model: openvino.Model, device: str, options: dict[str, str | int]) -> Any:
    try:
        return openvino_core().compile_model(model, device, options)
    except RuntimeError as error:
        raise ConfigError(f"OpenVINO cannot run this model on {device}: {reason(error)}; use 'cpu'") from None


def _settings(precision: str, device: str, num_threads: int | None) -> dict[str, str | int]:
    one_of("precision", precision, ["auto", *TYPES])
    if precision == "auto" and device == "CPU" and platform.machine() in ("x86_64", "AMD64"):
        # OpenVINO uses bfloat16 whenever the CPU has instructions for it; without AMX it is slower than float32
        precision = "bfloat16" if has_amx() else "float32"
    settings: dict[str, str | int] = {} if precision == "auto" else {"INFERENCE_PRECISION_HINT": TYPES[precision]}
    return settings if num_threads is None else {**settings, "INFERENCE_NUM_THREADS": num_threads}


def _for_lists(streams: Streams | None) -> dict[str, str | int]:
    """Return the settings of the network for lists: without tuned settings, OpenVINO chooses the number of streams."""
    if streams is None:
        return {"PERFORMANCE_HINT": "THROUGHPUT"}
    return {"NUM_STREAMS": streams.num_streams, "INFERENCE_NUM_THREADS": streams.num_streams * streams.num_threads}


def _with_conversion(model: openvino.Model, inputs: Collection[str]) -> openvino.Model:
    """Let the graph take uint8 pixels and int64 sizes, so that the conversion runs in the engine's threads."""
    steps = PrePostProcessor(model)
    images = steps.input(IMAGES)
    images.tensor().set_element_type(openvino.Type.u8)
    images.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    if SIZES in inputs:
        steps.input(SIZES).tensor().set_element_type(openvino.Type.i64)
    return steps.build()


def _name(port: Any, known: Collection[str]) -> str:
    """Return the known name of an input or output; a tensor has several names if operators were folded."""
    return next((name for name in known if name in port.names), min(port.names, default="without a name"))


def _dtype(port: Any) -> str:
    """Return NumPy's name of the type of an input."""
    kind: str = port.get_element_type().to_string()
    known = {"f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "u8": "uint8"}
    return known.get(kind, kind)


def _shape(port: Any) -> Shape:
    shape = port.partial_shape
    return () if shape.rank.is_dynamic else tuple(None if side.is_dynamic else side.get_length() for side in shape)
