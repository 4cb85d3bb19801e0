"""Detection with TensorRT 10 or 11 on an NVIDIA GPU: `.engine` files of `rtdetr export`. Needs no torch.

For each input shape, the copies and the network are captured once as a CUDA graph and then launched with one call, from
page-locked memory. Engines contain executable code: load only files from sources you trust.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import tensorrt  # pyright: ignore[reportMissingModuleSource]

from rtdetr.errors import ConfigError, WeightsError
from rtdetr.preprocessing import scale
from rtdetr.runtimes.cuda_memory import Buffer, Stream
from rtdetr.runtimes.engine_file import check_machine, read_engine
from rtdetr.runtimes.graph_form import IMAGES, OUTPUTS, SIZES, check_images, check_precision, output_of
from rtdetr.runtimes.options import DEFAULTS, LoadOptions
from rtdetr.runtimes.outputs import Batch, Output
from rtdetr.runtimes.processes import FileDetector

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class _Recorded(NamedTuple):
    """A captured inference for one input shape: its buffers by name, and the function that launches it."""

    buffers: dict[str, Buffer]
    start: Callable[[], None]


class TensorRTDetector(FileDetector):
    """A detector that runs an engine; `rtdetr.load` documents the arguments.

    Args:
        path: a file written by `rtdetr export --format tensorrt`.
        options: `device` is "auto" or "cuda" for the first GPU, "cuda:1" for the second; `precision` is "auto" or the
            precision of the engine.

    Raises:
        ConfigError: there is no such GPU, or the precision differs from the engine's.
        WeightsError: the file is missing or damaged, or was built for another GPU or TensorRT version.
    """

    has_ranges = True

    def __init__(self, path: Path, options: LoadOptions = DEFAULTS) -> None:
        header, content = read_engine(path)
        check_precision(options.precision, header.metadata, source=path)
        super().__init__(header.metadata, options)
        self._stream = Stream(_number(options.device))
        gpu, capability = self._stream.gpu, self._stream.compute_capability
        check_machine(header, path=path, tensorrt=tensorrt.__version__, gpu=gpu, compute_capability=capability)
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self._runtime = tensorrt.Runtime(self._logger)  # an engine does not keep it alive
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise WeightsError(
                f"{path} cannot be read by TensorRT; it may be incomplete: build it again on this machine"
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        if not set(self._inputs) <= {IMAGES, SIZES} or not set(OUTPUTS[self.metadata.postprocess]) <= set(names):
            raise WeightsError(f"{path} is damaged: its metadata does not fit its inputs and outputs {names}")
        smallest, _, largest = engine.get_tensor_profile_shape(IMAGES, 0)
        self.batch_sizes = smallest[0], largest[0]
        if not (self.metadata.dynamic_size or self.metadata.preprocess == "in_graph"):
            check_images(tuple(largest), self.metadata, source=path)
        self._recorded: dict[Shapes, _Recorded] = {}
        self._busy = Lock()
        self.where = f"{gpu} (TensorRT {tensorrt.__version__})"

    def infer(self, batch: Batch) -> Output:
        """Run the network and wait for its result."""
        images = batch.pixels if self.metadata.preprocess == "in_graph" else scale(batch.pixels)
        values = {IMAGES: images, SIZES: batch.padded_sizes_wh}
        shapes = tuple((name, values[name].shape) for name in self._inputs)
        with self._busy:
            if shapes not in self._recorded:
                self._recorded = {shapes: self._record(shapes)}  # keep only one, to limit memory
            recorded = self._recorded[shapes]
            for name in self._inputs:
                recorded.buffers[name].host[...] = values[name]
            recorded.start()
            self._stream.wait()
            results = [recorded.buffers[name].host.copy() for name in OUTPUTS[self.metadata.postprocess]]
        return output_of(results, self.metadata)

    def _record(self, shapes: Shapes) -> _Recorded:
        """Allocate memory for inputs of these shapes and capture the inference."""
        for old in self._recorded.values():
            for buffer in old.buffers.values():
                self._stream.free(buffer)
        self._recorded = {}
        for name, shape in shapes:
            if not self._context.set_input_shape(name, shape):
                raise WeightsError(
                    f"{self.description} was not built for {name} of shape {shape}: build it with a wider range"
                )
        outputs = OUTPUTS[self.metadata.postprocess]
        buffers = {}
        for name in (*self._inputs, *outputs):
            shape = tuple(self._context.get_tensor_shape(name))
            buffers[name] = self._stream.buffer(shape, tensorrt.nptype(self._engine.get_tensor_dtype(name)))
            self._context.set_tensor_address(name, buffers[name].device)

        def work() -> None:
            for name in self._inputs:
                self._stream.upload(buffers[name])
            if not self._context.execute_async_v3(self._stream.handle):
                raise WeightsError(f"{self.description} failed: see TensorRT's log for the reason")
            for name in outputs:
                self._stream.download(buffers[name])

        for name in self._inputs:
            buffers[name].host[...] = np.zeros((), buffers[name].host.dtype)
        work()  # TensorRT allocates memory on the first run, which a CUDA graph must not contain
        self._stream.wait()
        return _Recorded(buffers, self._stream.record(work))


def _number(device: str) -> int:
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdecimal()):
        raise ConfigError(f"TensorRT runs on NVIDIA GPUs: expected device 'auto', 'cuda' or 'cuda:1', got {device!r}")
    return int(number or 0)
