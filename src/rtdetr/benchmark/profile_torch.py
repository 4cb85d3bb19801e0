"""Profile a network in PyTorch."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from rtdetr.benchmark.profile import EngineProfile, Operation, stage_of
from rtdetr.runtimes.outputs import Batch
from rtdetr.runtimes.torch_detector import TorchDetector

_MARK, _RUN = "stage ", "run "


def profile_engine(detector: TorchDetector, batch: Batch, *, rounds: int) -> EngineProfile:
    """Run the network with PyTorch's profiler, and each of its convolutions and linear layers alone."""
    with _marked_stages(detector.network), torch.inference_mode():
        for _ in range(2):  # warm-up
            detector.infer(batch)
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            for turn in range(rounds):
                with record_function(f"{_RUN}{turn}"):
                    detector.infer(batch)
    runs: list[list[Operation]] = [[] for _ in range(rounds)]
    for event in profiler.events() or []:
        if event.name.startswith("aten::") and event.self_cpu_time_total > 0:
            names = list(_enclosing(event))
            stage = next((name.removeprefix(_MARK) for name in names if name.startswith(_MARK)), "")
            turn = next(int(name.removeprefix(_RUN)) for name in names if name.startswith(_RUN))
            runs[turn].append(Operation(stage, event.name.removeprefix("aten::"), event.self_cpu_time_total / 1e3))
    return EngineProfile(runs, _floor(detector, batch, rounds))


@contextmanager
def _marked_stages(network: nn.Module) -> Iterator[None]:
    """Inside the block, the profiler records the stages of the network."""
    open_marks: list[Any] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            open_marks.append(record_function(f"{_MARK}{name}"))
            open_marks[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    hooks = []
    for name, module in network.named_modules():
        if stage_of(name) == name:
            hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _enclosing(event: FunctionEvent) -> Iterator[str]:
    """Yield the names of the events around an event, innermost first."""
    parent = event.cpu_parent
    while parent is not None:
        yield parent.name
        parent = parent.cpu_parent


def _floor(detector: TorchDetector, batch: Batch, rounds: int) -> float:
    """Sum of the median milliseconds of each convolution and linear layer alone."""
    calls: dict[str, tuple[Callable[[], object], int]] = {}

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
        x = torch.empty_like(inputs[0]).normal_()
        key = f"{module} {tuple(x.shape)} {x.stride()}"
        call, number = calls.get(key, (functools.partial(type(module).forward, module, x), 0))
        calls[key] = call, number + 1

    layers = [module for module in detector.network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(hook) for module in layers]
    try:
        detector.infer(batch)
    finally:
        for one in hooks:
            one.remove()
    with torch.inference_mode():
        return sum(_median_ms(call, rounds) * number for call, number in calls.values())


def _median_ms(call: Callable[[], object], rounds: int) -> float:
    times = []
    for turn in range(rounds + 2):
        start = time.perf_counter()
        call()
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
