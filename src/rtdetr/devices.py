"""Where a network runs and in which precision, from the words a user writes."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import torch

from rtdetr import cpu
from rtdetr.errors import ConfigError, InputError, one_of
from rtdetr.process_lock import ProcessLock

Function = TypeVar("Function", bound=Callable)

_log = logging.getLogger(__name__)
_dtype_lock = ProcessLock()
_dtype_users: list[torch.dtype] = []  # one for each block that runs; the first is the process's own default
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in where 16 bits are too few; not `torch.promote_types`, which torch 2.6 would export."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def not_compiled(function: Function) -> Function:
    """Keep `torch.compile` away from a function whose shapes depend on its values: it would trace it anew every batch.

    `torch.compiler.disable` does the same, and imports the compiler at once, which takes a second.
    """
    return cast(Function, torch._disable_dynamo(function))


def is_recording() -> bool:
    """Whether operations are recorded for other inputs too: by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@contextlib.contextmanager
def pytorch_defaults() -> Iterator[None]:
    """Run a block, or a function that this decorates, as a process that has just imported PyTorch would.

    Other libraries change the default dtype, often around their own loading. Weights that are copied into a network
    that is built then are rounded without a word. So in the block the default dtype is float32 (also for other threads,
    as PyTorch has one for the process) and the default device the CPU, and autocast, inference mode and `no_grad` end.
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
    """Run a block in the types that its tensors have, also inside of the caller's `torch.autocast`."""
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
    """Make PyTorch usable in a process that was forked from one that has run a network.

    Raises:
        InputError: it cannot be: the device is not a CPU.
    """
    if device.type != "cpu":
        raise InputError(
            f"{device} cannot be used in a process that was forked from one that has used it: load the detector in "
            "each process, or start processes with multiprocessing.get_context('spawn')"
        )
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)  # more would wait for the parent's threads for ever
        _log.warning(
            "this process (%d) was forked from one that had run PyTorch, so it computes with one thread; to use more, "
            "load the detector in each process, or start processes with multiprocessing.get_context('spawn')",
            os.getpid(),
        )


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is the first CUDA device, else the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:0'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {device!r} here: PyTorch sees {torch.cuda.device_count()} CUDA devices; use 'cpu'"
        )
    return chosen


def training_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the type a training step computes in; "auto" is bfloat16 where the hardware has it, for its range.

    Raises:
        ConfigError: unknown precision.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return inference_dtype(device, precision)


def inference_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the type a detector computes in; "auto" is the fastest one of the device that keeps the results.

    Raises:
        ConfigError: unknown precision.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and has_amx() else torch.float32
    return DTYPES[one_of("precision", precision, ["auto", *DTYPES])]


def has_amx() -> bool:
    """Whether this CPU has the matrix units that make bfloat16 fast; PyTorch knows it on more systems."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported()) if supported is not None else cpu.has_amx()
