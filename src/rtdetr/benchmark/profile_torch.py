"""Profile a network in PyTorch."""

import functools
import os
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

_MARK = "stage "


def profile_engine(detector: TorchDetector, batch: Batch, *, rounds: int) -> EngineProfile:
    """Run the network with PyTorch's profiler, and each of its convolutions and linear layers alone."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its notes on each run are not for users
    runs = []
    with _marked_stages(detector.network), torch.inference_mode():
        for turn in range(rounds + 2):
            with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
                detector.infer(batch)
            if turn >= 2:
                runs.append(_operations(profiler.events() or []))
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


def _operations(events: list[FunctionEvent]) -> list[Operation]:
    """Return the operators of a run with the stage they belong to as name."""
    return [
        Operation(_stage(event), event.name.removeprefix("aten::"), event.self_cpu_time_total / 1e3)
        for event in events
        if event.name.startswith("aten::") and event.self_cpu_time_total > 0
    ]


def _stage(event: FunctionEvent) -> str:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(_MARK):
            return parent.name.removeprefix(_MARK)
        parent = parent.cpu_parent
    return "other"


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
