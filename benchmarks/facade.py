"""Overhead of the Hugging Face classes of `rtdetr.hf` over their network, and speed relative to transformers.

    python benchmarks/facade.py [--models rtdetrv2_r18vd rtdetrv2_r50vd] [--device cpu] [--rounds 15]

Same weights, same process, interleaved rounds, medians; inference on one 640x640 image, and forward and loss of a
training step. The facade contains the same network that is timed separately. Target: within 2 % of it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from peers import environment, interleaved, make_pair, print_table

from rtdetr.hf.configuration import RTDetrV2Config
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection
from rtdetr.losses import build_criterion
from rtdetr.models import RTDETR, fuse
from rtdetr.structures import Target


def facade_of(network: RTDETR) -> RTDetrV2ForObjectDetection:
    """Return the Hugging Face class with a given network."""
    facade = RTDetrV2ForObjectDetection(RTDetrV2Config.from_model_config(network.config))
    facade.model.network = network
    return facade.train(network.training)


def inference(ours: RTDETR, theirs: torch.nn.Module, *, device: str) -> dict[str, Callable[[], object]]:
    """Return functions that detect objects in one image."""
    images = torch.rand(1, 3, 640, 640, device=device)
    facade, fused = facade_of(ours), fuse(ours).to(memory_format=torch.channels_last)
    fused_facade = facade.fuse()
    return {
        "transformers": lambda: theirs(images),
        "core": lambda: ours(images),
        "facade": lambda: facade(images),
        "core, fused": lambda: fused(images),
        "facade, fused": lambda: fused_facade(images),
    }


def training(ours: RTDETR, theirs: torch.nn.Module, *, device: str) -> dict[str, Callable[[], object]]:
    """Return functions that compute the loss of one image."""
    images = torch.rand(1, 3, 640, 640, device=device)
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.1, 0.4]], device=device)
    classes = torch.tensor([1, 2], device=device)
    labels, targets = [{"class_labels": classes, "boxes": boxes}], [Target(labels=classes, boxes=boxes)]
    criterion, facade = build_criterion(ours.config), facade_of(ours)
    return {
        "transformers": lambda: theirs(images, labels=labels).loss,
        "core": lambda: torch.stack(list(criterion(ours(images, targets), targets, num_boxes=2.0).values())).sum(),
        "facade": lambda: facade(images, labels=labels).loss,
    }


def own_share(facade: RTDetrV2ForObjectDetection, *, device: str, rounds: int) -> float:
    """Return the median ratio of the time outside the network to the time in the network, within the same call.

    Both times come from one call, so that a machine whose speed varies does not hide a small share.
    """
    times: list[float] = []

    def note(*_: object) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    network, images = facade.model.network, torch.rand(1, 3, 640, 640, device=device)
    hooks = [network.register_forward_pre_hook(note), network.register_forward_hook(note)]
    shares = []
    for _ in range(rounds + 3):
        times.clear()
        note()
        facade(images)
        note()
        start, before, after, end = times
        shares.append((end - start) / (after - before) - 1)
    for hook in hooks:
        hook.remove()
    return statistics.median(shares[3:])


def report(title: str, functions: dict[str, Callable[[], object]], *, rounds: int) -> None:
    """Time the functions and print a table, with the overhead of the facade over the core."""
    times = interleaved(functions, rounds=rounds)
    rows = []
    for name, seconds in times.items():
        core = times.get(name.replace("facade", "core"))
        over = f"{100 * (seconds / core - 1):+.1f} %" if core and name.startswith("facade") else ""
        rows.append((name, f"{seconds * 1e3:.1f}", f"{times['transformers'] / seconds:.2f}x", over))
    print_table((title, "ms", "speed-up", "over the core"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["rtdetrv2_r18vd", "rtdetrv2_r50vd"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(environment(options.device), "\n")
    for name in options.models:
        ours, theirs = make_pair(name)
        for model in (ours, theirs):
            model.to(options.device)
        with torch.inference_mode():
            functions = inference(ours, theirs, device=options.device)
            report(f"{name}: network, batch 1, 640x640", functions, rounds=options.rounds)
            for form, facade in (("", facade_of(ours)), (", fused", facade_of(ours).fuse())):
                share = own_share(facade, device=options.device, rounds=2 * options.rounds)
                print(f"facade{form}: {100 * share:.2f} % overhead over the network in the same call")
        with torch.no_grad():
            functions = training(ours.train(), theirs.train(), device=options.device)
            report(f"{name}: forward and loss in train mode", functions, rounds=options.rounds)


if __name__ == "__main__":
    main()
