"""The CUDA functions that an engine needs in addition to TensorRT: a stream, buffers, and a graph of one inference.

Uses NVIDIA's `cuda-bindings`, so that torch is not needed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cuda.bindings import runtime

from rtdetr.errors import ConfigError


class Buffer(NamedTuple):
    """An array on the GPU and its page-locked copy on the host, which the GPU accesses directly."""

    host: np.ndarray
    host_address: int
    device: int  # address


class _Memory:
    """Memory allocated by CUDA, for NumPy to use without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": dtype.str}


class Stream:
    """A CUDA stream.

    Args:
        device: index of the GPU.

    Raises:
        ConfigError: there is no such GPU, or a call to CUDA failed.
    """

    def __init__(self, device: int) -> None:
        _call(runtime.cudaSetDevice(device))
        properties = _call(runtime.cudaGetDeviceProperties(device))
        name = properties.name
        self.gpu = (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0")
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.handle = int(_call(runtime.cudaStreamCreate()))

    def buffer(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """Allocate memory for an array on the host and the GPU."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(_call(runtime.cudaHostAlloc(size, 0)))
        host = np.asarray(_Memory(address, shape, np.dtype(dtype)))
        return Buffer(host, address, int(_call(runtime.cudaMalloc(size))))

    def free(self, buffer: Buffer) -> None:
        """Free the memory of a buffer."""
        _call(runtime.cudaFree(buffer.device))
        _call(runtime.cudaFreeHost(buffer.host_address))

    def upload(self, buffer: Buffer) -> None:
        """Start a copy to the GPU."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(runtime.cudaMemcpyAsync(buffer.device, buffer.host_address, buffer.host.nbytes, kind, self.handle))

    def download(self, buffer: Buffer) -> None:
        """Start a copy from the GPU."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(runtime.cudaMemcpyAsync(buffer.host_address, buffer.device, buffer.host.nbytes, kind, self.handle))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `work` adds to this stream as a CUDA graph; return a function that launches it."""
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(runtime.cudaStreamBeginCapture(self.handle, mode))
        try:
            work()
        finally:
            graph = _call(runtime.cudaStreamEndCapture(self.handle))
        ready = _call(runtime.cudaGraphInstantiate(graph, 0))
        return lambda: _call(runtime.cudaGraphLaunch(ready, self.handle))

    def wait(self) -> None:
        """Wait until all work is done."""
        _call(runtime.cudaStreamSynchronize(self.handle))


def _call(result: tuple[Any, ...]) -> Any:
    """Return the value of a CUDA call, after checking its error code."""
    code, *values = result
    if int(code):
        raise ConfigError(f"CUDA reports {getattr(code, 'name', code)}; check with nvidia-smi that the GPU works")
    return values[0] if values else None
