"""Distributed training: the processes that train one model, and their collective operations.

`torchrun` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK in the environment of each; `join` reads them,
and `launch` is how `rtdetr train --processes N` starts them. Any other run is a single process, for which everything
here does nothing. Decisions are exchanged over the CPU (gloo), so that no process waits for a GPU.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html for the environment.
"""

import contextlib
import datetime
import inspect
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.nn.parallel import DistributedDataParallel

from rtdetr.errors import LOG_RECORDS_VARIABLE, ConfigError
from rtdetr.machine import num_cores
from rtdetr.wording import counted

Value = TypeVar("Value")
TIMEOUT = datetime.timedelta(hours=1)  # processes wait while another one evaluates or reads a dataset

_LAUNCHER_LOG = "torch.distributed.elastic.multiprocessing.api"  # logger in which torchrun reports failed processes


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: rank of this process, 0 to world_size - 1.
        world_size: number of processes.
        local_rank: rank among the processes of this machine, the index of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs to the user."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes (all_reduce); NaN or infinite if a value of any process is."""
        if self.world_size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world_size

    def mean_number(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        return value if self.world_size == 1 else self.mean(torch.tensor(value, dtype=torch.float64)).item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.mean_number(float(flag)) > 0

    def minimum(self, value: int) -> int:
        """Return the minimum of a number over the processes."""
        return min(self.gather_all(value))

    def broadcast(self, value: Value) -> Value:
        """Return the picklable value of the main process in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: Value) -> list[Value]:
        """Return the picklable values of all processes, by rank; an empty list except in the main one."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def gather_all(self, value: Value) -> list[Value]:
        """Return the picklable values of all processes in every process, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def is_main_process() -> bool:
    """Whether this process logs to the user; also usable outside `join`."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, for the duration of the block.

    Raises:
        ConfigError: there are more processes on this machine than GPUs.
    """
    environment = os.environ
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        yield Processes()
        return
    processes = Processes(
        rank=int(environment["RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", 0)),
    )
    if processes.world_size == 1 or dist.is_initialized():
        yield processes
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        if processes.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {processes.local_rank + 1} of this machine has no GPU: PyTorch sees "
                f"{torch.cuda.device_count()}. Start one process per GPU"
            )
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """Wrap the model in DistributedDataParallel; return the model itself for a single process."""
    if processes.world_size == 1:
        return model
    # running statistics are those of the main process, or kept equal by synchronized batch norm
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.15
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **options)


def no_sync(network: nn.Module, *, active: bool) -> contextlib.AbstractContextManager[None]:
    """If `active`, skip averaging gradients in a backward pass that is followed by another."""
    if active and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def without_option(name: str, arguments: list[str]) -> list[str]:
    """Remove an option and its value (`--name value` or `--name=value`) from the arguments of a command line."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == name:
            skip = True
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def launch(num_processes: int, arguments: list[str]) -> NoReturn:
    """Run `rtdetr ARGUMENTS` in `num_processes` processes here, as torchrun does, and exit with their status.

    Raises:
        ConfigError: fewer than one process, or more than GPUs and usable cores.
    """
    if "RANK" in os.environ:
        raise ConfigError(
            "--processes starts the processes itself: omit it under torchrun, which has already started them"
        )
    if num_processes < 1:
        raise ConfigError(f"expected at least 1 process, got {num_processes}")
    most = max(torch.cuda.device_count(), num_cores())
    if num_processes > most:
        raise ConfigError(
            f"expected at most {counted(most, 'process')}, as many as there are GPUs or usable cores, got "
            f"{num_processes}"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num_processes)))
    options = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "rtdetr", *arguments]
    sys.stdout.flush()
    from torch.distributed.run import get_args_parser, run

    logging.getLogger(_LAUNCHER_LOG).addFilter(
        lambda record: False
    )  # the process itself has already logged why it ended
    with tempfile.TemporaryDirectory(prefix="rtdetr-") as notes:
        os.environ[LOG_RECORDS_VARIABLE] = notes
        try:
            run(get_args_parser().parse_args(options))
        except SignalException as error:  # the processes received it too, saved their state and said how to resume
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            if code < 0:  # killed, so it could not log anything
                why = ", as happens when the machine runs out of memory" if -code == signal.SIGKILL else ""
                name = signal.Signals(-code).name
                sys.stderr.write(f"TrainingError: a process of the run was killed by {name}{why}\n")
            sys.exit(code if code >= 0 else 128 - code)
    sys.exit(0)
