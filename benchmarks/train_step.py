"""Time of a training step compared with transformers: forward, loss, backward, clipping and AdamW; interleaved rounds.

    python benchmarks/train_step.py [--model rtdetrv2_r18vd] [--batch 4] [--size 640] [--precision auto]

Both train batch norms, use denoising, and see the same images and objects. On a CPU, both reuse memory as `rtdetr
train` does, which makes transformers faster, too.
"""

import argparse

import torch
from peers import convolution_rate, environment, flops, interleaved, make_pair, print_table

from rtdetr.devices import training_dtype
from rtdetr.losses import build_criterion
from rtdetr.native import reuse_all_memory
from rtdetr.structures import Target


def make_targets(batch: int, device: str) -> list[Target]:
    """Return seven objects per image, the mean of COCO."""
    generator = torch.Generator().manual_seed(0)
    targets: list[Target] = []
    for _ in range(batch):
        labels = torch.randint(0, 80, (7,), generator=generator)
        boxes = torch.rand(7, 4, generator=generator) * 0.3 + 0.2
        targets.append({"labels": labels.to(device), "boxes": boxes.to(device)})
    return targets


def trainable_norms(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the frozen batch norms of the transformers backbone by trainable ones, as in the training of r18."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "RTDetrV2FrozenBatchNorm2d":
                live = torch.nn.BatchNorm2d(child.get_buffer("weight").numel())
                live.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, live)
    return model


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Run everything after the loss: backward, clipping and optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rtdetrv2_r18vd")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = options.device
    print(environment(device), "\n")
    ours, theirs = make_pair(options.model)
    ours, theirs = ours.train().to(device), trainable_norms(theirs).train().to(device)
    fast = ours.to(memory_format=torch.channels_last)
    needed = 3 * options.batch * flops(ours) * (options.size / 640) ** 2  # backward takes twice the forward pass
    criterion = build_criterion(options.model)
    images = torch.rand(options.batch, 3, options.size, options.size, device=device)
    last = images.to(memory_format=torch.channels_last)
    targets = make_targets(options.batch, device)
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    optimizers = {id(m): torch.optim.AdamW(m.parameters(), lr=1e-6) for m in (fast, theirs)}
    for precision in options.precisions:
        dtype = training_dtype(torch.device(device), precision)

        def cast(dtype: torch.dtype = dtype) -> torch.autocast:
            return torch.autocast(device.split(":")[0], dtype=dtype, enabled=dtype != torch.float32)

        def transformers_step(cast=cast) -> None:
            with cast():
                loss = theirs(pixel_values=images, labels=labels).loss
            step(theirs, optimizers[id(theirs)], loss)

        def our_step(cast=cast) -> None:
            with cast():
                output = fast(last, targets)
            step(fast, optimizers[id(fast)], torch.stack(list(criterion(output, targets).values())).sum())

        with reuse_all_memory():
            times = interleaved({"transformers": transformers_step, "ours": our_step}, rounds=options.rounds, warmup=1)
        base = times["transformers"]
        floor = needed / convolution_rate(device, dtype)
        rows = [(name, f"{s:.3f}", f"{base / s:.2f}x", f"{s / floor:.2f}") for name, s in times.items()]
        setting = f"batch {options.batch}, {options.size}x{options.size}, {str(dtype)[6:]}"
        print_table((f"{options.model}: training step, {setting}", "s", "speed-up", "time / floor"), rows)


if __name__ == "__main__":
    main()
