"""A fake of TensorRT and CUDA in main memory, with the functions that the library calls and checks of their order."""

import ctypes
import sys
import types
from enum import Enum, IntEnum

import numpy as np

GPU, CAPABILITY, VERSION = "NVIDIA Fake", (8, 6), "10.3.0"


class Cuda(types.ModuleType):
    """`cuda.bindings.runtime`: copies happen when they are asked for, or are recorded."""

    cudaMemcpyKind = IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory, self.recording, self.launches = {}, None, 0

    def do(self, work):
        work() if self.recording is None else self.recording.append(work)

    def _reserve(self, size):
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaSetDevice(self, device):
        return (0 if device == 0 else 101,)

    def cudaGetDeviceProperties(self, device):
        return 0, types.SimpleNamespace(name=GPU.encode() + b"\0", major=CAPABILITY[0], minor=CAPABILITY[1])

    def cudaStreamCreate(self):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaHostAlloc(self, size, flags):
        return self._reserve(size)

    def cudaMalloc(self, size):
        return self._reserve(size)

    def cudaFree(self, address):
        del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        assert {target, source} <= set(self.memory)
        assert count == len(self.memory[target]) == len(self.memory[source])
        self.do(lambda: ctypes.memmove(target, source, count))
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        return 0, recorded

    def cudaGraphInstantiate(self, graph, flags):
        return 0, graph

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in graph:
            work()
        return (0,)


class Engine:
    """An engine that gives logits and boxes from the mean color, for 1 to 4 images; its bytes are b"engine"."""

    num_io_tensors = 3
    names = ("images", "logits", "boxes")

    def __init__(self, cuda, weights):
        self.cuda, self.weights, self.addresses = cuda, weights, {}

    def get_tensor_name(self, place):
        return self.names[place]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name == "images" else Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return np.float32

    def get_tensor_profile_shape(self, name, profile):
        return [(count, 3, 64, 64) for count in (1, 2, 4)]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = shape
        return 1 <= shape[0] <= 4 and shape[1:] == (3, 64, 64)

    def get_tensor_shape(self, name):
        ends = {"images": self.shape[1:], "logits": self.weights[0].shape[1:], "boxes": self.weights[1].shape[1:]}
        return (self.shape[0], *ends[name])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        addresses, shape = dict(self.addresses), self.shape

        def work():
            images = np.frombuffer(self.cuda.memory[addresses["images"]], np.float32).reshape(shape)
            color = images.mean((2, 3))
            logits = np.einsum("bc,cqk->bqk", color, self.weights[0])
            boxes = 1 / (1 + np.exp(-np.einsum("bc,cqk->bqk", color, self.weights[1])))
            for name, values in (("logits", logits), ("boxes", boxes)):
                self.cuda.memory[addresses[name]][:] = values.astype(np.float32).tobytes()

        self.cuda.do(work)
        return True


Mode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])


def install(monkeypatch, weights):
    """Put the two modules where an import finds them; returns the fake CUDA."""
    cuda = Cuda()
    runtime = types.SimpleNamespace(
        deserialize_cuda_engine=lambda content: Engine(cuda, weights) if content == b"engine" else None
    )
    tensorrt = types.ModuleType("tensorrt")
    tensorrt.__version__ = VERSION
    tensorrt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
    tensorrt.Runtime = lambda logger: runtime
    tensorrt.TensorIOMode = Mode
    tensorrt.nptype = lambda kind: kind
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = cuda
    modules = {"tensorrt": tensorrt, "cuda": types.ModuleType("cuda"), "cuda.bindings": bindings}
    for name, module in (modules | {"cuda.bindings.runtime": cuda}).items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("rtdetr.runtimes.tensorrt_detector", "rtdetr.runtimes.cuda_memory"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return cuda
