"""Shared code of the benchmarks: a transformers model with our weights, interleaved timing, floor, environment."""

import copy
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
import transformers
from torch.utils.flop_counter import FlopCounterMode

import rtdetr
from rtdetr.models import RTDETR, build_model
from rtdetr.weights import default_categories, save_huggingface


def randomize(model: RTDETR) -> RTDETR:
    """Randomize a new model at the scale of a trained one, so scores and boxes differ between queries."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running_var" in name:
                value.copy_(1 + 0.2 * torch.rand(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim > 1 and "anchors" not in name:
                value.copy_(torch.randn(value.shape, generator=generator) * (1.5 / value[0].numel()) ** 0.5)
    return model


def make_pair(name: str) -> tuple[RTDETR, torch.nn.Module]:
    """Return our model and that of transformers with the same weights, both in eval mode."""
    torch.manual_seed(0)
    ours = randomize(build_model(name)).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(ours, folder, categories=default_categories(ours.config.num_classes))
        theirs = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder).eval()
    return ours, theirs


def interleaved(functions: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> dict[str, float]:
    """Return median seconds per function; each round calls all functions, so slow phases affect them equally."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds + warmup):
        for name, function in functions.items():
            _wait()
            start = time.perf_counter()
            function()
            _wait()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def flops(model: RTDETR) -> int:
    """Return the FLOPs of convolutions and matrix products at 640x640."""
    meta = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.empty(1, 3, 640, 640, device="meta"))
    return counter.get_total_flops()


def convolution_rate(device: str, dtype: torch.dtype) -> float:
    """Return the best FLOP/s of a 3x3 convolution (256 to 256 channels, 80x80), which defines the floor."""
    batch = 64 if device.startswith("cuda") else 1
    x = torch.randn(batch, 256, 80, 80, device=device).to(dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device).to(dtype).to(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(20):
            _wait()
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            _wait()
            best = min(best, time.perf_counter() - start)
    return 2 * batch * 256 * 256 * 9 * 6400 / best


def environment(device: str) -> str:
    """Return one line with CPU or GPU, threads, instruction sets and versions."""
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    else:
        amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads, "
        where += f"{torch.backends.cpu.get_cpu_capability()}, AMX {'yes' if amx else 'no'}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, rtdetr {rtdetr.__version__}"
    return f"{time.strftime('%Y-%m-%d')}; {where}; {versions}"


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)
