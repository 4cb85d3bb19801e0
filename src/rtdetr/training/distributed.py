"""Several processes that train one model: who this one is, and the few things they tell each other.

`torchrun` starts the processes and says in the environment which one each is (RANK, WORLD_SIZE, LOCAL_RANK); `join`
reads that, and `launch` is what `rtdetr train --processes N` uses to get there. A run that was not started so is one
process, for which everything here does nothing. Decisions are taken over the CPU, so that no process waits for a GPU.

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

from rtdetr.errors import SAID_IN, ConfigError
from rtdetr.wording import counted

Value = TypeVar("Value")
TIMEOUT = datetime.timedelta(hours=1)  # the others wait as long as one evaluates or reads a dataset

_LAUNCHER_LOG = "torch.distributed.elastic.multiprocessing.api"  # what torchrun says of processes that fail


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this one among all, 0 to world_size - 1.
        world_size: how many there are.
        local_rank: number among those of this machine: the index of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and speaks to the user."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes; what is not finite in one is not finite in the result."""
        if self.world_size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world_size

    def mean_number(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        return value if self.world_size == 1 else self.mean(torch.tensor(value, dtype=torch.float64)).item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        return self.mean_number(float(flag)) > 0

    def least(self, value: int) -> int:
        """Return the smallest of a number over the processes."""
        return min(self.gather_all(value))

    def of_main(self, value: Value) -> Value:
        """Return the picklable value of the main process in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: Value) -> list[Value]:
        """Return the picklable values of all processes, in the order of their ranks; an empty list but in the main."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def gather_all(self, value: Value) -> list[Value]:
        """Return the picklable values of all processes in every process, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def is_main_process() -> bool:
    """Whether this process is the one that speaks to the user, before and after `join` as well."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts.

    Raises:
        ConfigError: the environment names more processes of this machine than it has GPUs.
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
                f"process {processes.local_rank + 1} of this machine has no GPU of its own: PyTorch sees "
                f"{torch.cuda.device_count()}. Start as many processes as there are GPUs"
            )
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """Return the module whose gradients are averaged over the processes; the model itself for a single one."""
    if processes.world_size == 1:
        return model
    # running statistics are those of the main process, or synchronised batch norm keeps them equal
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.15
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **options)


def postponed(network: nn.Module, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Leave gradients unaveraged in a backward pass that another one follows."""
    if wanted and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def without_option(name: str, arguments: list[str]) -> list[str]:
    """The arguments of a command line without an option and its value, as `--name value` or `--name=value`."""
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
    """Run `rtdetr ARGUMENTS` in `num_processes` processes of this machine, as torchrun does, and exit as they did.

    Raises:
        ConfigError: fewer than one process, or more than there are GPUs and cores.
    """
    if "RANK" in os.environ:
        raise ConfigError("--processes starts processes itself; leave it out under torchrun, which has done so")
    if num_processes < 1:
        raise ConfigError(f"expected at least 1 process, got {num_processes}")
    most = max(torch.cuda.device_count(), os.cpu_count() or 1)
    if num_processes > most:
        raise ConfigError(
            f"expected at most {counted(most, 'process')}, as many as this machine has GPUs or cores, got "
            f"{num_processes}"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    options = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "rtdetr", *arguments]
    sys.stdout.flush()
    from torch.distributed.run import get_args_parser, run

    logging.getLogger(_LAUNCHER_LOG).addFilter(lambda record: False)  # a process has said itself why it ends
    with tempfile.TemporaryDirectory(prefix="rtdetr-") as notes:
        os.environ[SAID_IN] = notes
        try:
            run(get_args_parser().parse_args(options))
        except SignalException as error:  # the processes got it too, saved their state and said how to go on
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            if code < 0:  # it could not say a word
                why = " as systems do where memory runs out" if -code == signal.SIGKILL else ""
                name = signal.Signals(-code).name
                sys.stderr.write(f"TrainingError: a process of the run was ended by {name}{why}\n")
            sys.exit(code if code >= 0 else 128 - code)
    sys.exit(0)
