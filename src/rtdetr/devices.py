"""Devices and number types for running a network, from the names that users write."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch

from rtdetr import machine
from rtdetr.errors import ConfigError, InputError, one_of
from rtdetr.process_lock import ProcessLock

Function = TypeVar("Function", bound=Callable)

_log = logging.getLogger(__name__)
_dtype_lock = ProcessLock()
_dtype_users: list[torch.dtype] = []  # one per active block; the first is the process's own default
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type for computations that need more than 16 bits; torch 2.6 would export `torch.promote_types`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def not_compiled(function: Function) -> Function:
    """Exclude a function with data-dependent shapes from `torch.compile`, which would retrace it for every batch.

    `torch.compiler.disable` does the same but imports the compiler immediately, which takes a second.
    """
    return cast(Function, torch._disable_dynamo(function))


def is_recording() -> bool:
    """Whether operations are being recorded, by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@contextlib.contextmanager
def pytorch_defaults() -> Iterator[None]:
    """Run a block, or a decorated function, with PyTorch's initial defaults.

    Other libraries change the default dtype, often while they load. Weights copied into a network built at that moment
    would be rounded silently. In the block the default dtype is float32 (for all threads, as PyTorch has one per
    process), the default device is the CPU, and autocast, inference mode and `no_grad` are off.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_float32_by_default())
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(no_autocast())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Run a block without autocast, even inside the caller's `torch.autocast`."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    with _dtype_lock.hold():
        _dtype_users.append(_dtype_users[0] if _dtype_users else torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _dtype_lock.hold():
            before = _dtype_users.pop()
            if not _dtype_users:
                torch.set_default_dtype(before)


def continue_in_fork(device: torch.device) -> None:
    """Make PyTorch usable in a process that was forked after its parent ran a network.

    Raises:
        InputError: the device is not a CPU, so this is impossible.
    """
    if device.type != "cpu":
        raise InputError(
            f"{device} cannot be used in a process forked from one that has used it. Load the detector in each "
            "process, or start processes with multiprocessing.get_context('spawn')"
        )
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)  # more threads would wait for the parent's forever
        _log.warning(
            "process %d was forked from one that had run PyTorch, so it computes with one thread. To use more, "
            "load the detector in each process, or start processes with multiprocessing.get_context('spawn')",
            os.getpid(),
        )


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device with a name; "auto" is the first CUDA device, or else the CPU.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:0'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {device!r} on this machine: PyTorch sees {torch.cuda.device_count()} CUDA devices. Use 'cpu'"
        )
    return chosen


def list_devices() -> list[torch.device]:
    """Return the CPU and all CUDA devices."""
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]


def training_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the type that a training step computes in; "auto" is bfloat16 if a GPU supports it, for its range.

    Raises:
        ConfigError: unknown precision.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return inference_dtype(device, precision)


def inference_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the type that a detector computes in; "auto" is the fastest type of the device that keeps the results.

    Raises:
        ConfigError: unknown precision.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and has_amx() else torch.float32
    return DTYPES[one_of("precision", precision, ["auto", *DTYPES])]


def has_amx() -> bool:
    """Whether this CPU has matrix units that make bfloat16 fast, and the system allows processes to use them."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return machine.has_amx() if supported is None else bool(supported())


def describe_device(device: torch.device) -> dict[str, Any]:
    """Describe a device: its type and, for a GPU, its name, memory in GiB, and PyTorch's CUDA and cuDNN versions."""
    if device.type != "cuda":
        return {"type": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_gib": round(properties.total_memory / machine.GIB, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
