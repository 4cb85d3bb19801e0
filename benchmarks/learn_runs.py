"""Runs of `learn.py`: a loop that trains our network or that of transformers on the same batches, and `rtdetr.train`.

Each function is one run in a separate process and returns its evaluations.
"""

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import rtdetr
from rtdetr import zoo
from rtdetr.config import DecoderConfig, EncoderConfig, ModelConfig, PResNetConfig, Recipe
from rtdetr.data import DetectionDataset, TrainLoader, open_dataset
from rtdetr.detections import Detections
from rtdetr.evaluation import evaluate_dataset
from rtdetr.images import LoadedImage, size_of
from rtdetr.losses import build_criterion
from rtdetr.models import build_model
from rtdetr.models.postprocess import postprocess
from rtdetr.preprocessing import preprocess
from rtdetr.recipes import named_recipes, set_learning_rate
from rtdetr.reports.metrics import read_records
from rtdetr.structures import Target
from rtdetr.training import ModelEMA, TrainResult, build_optimizer
from rtdetr.weights import save_huggingface

SMALL = ModelConfig(  # trains within minutes on a CPU
    name="learn-small",
    backbone=PResNetConfig(depth=18, blocks=(1, 1, 1, 1), base_width=16),
    encoder=EncoderConfig(width=64, feedforward=128, num_heads=4, expansion=0.5),
    decoder=DecoderConfig(width=64, feedforward=128, num_heads=4, num_layers=2, num_queries=60, num_denoising=30),
)


class Scale(NamedTuple):
    """Sizes of the experiment that a machine can run in reasonable time."""

    network: ModelConfig
    side: int  # side of the square network input in pixels
    batch: int
    lr: float
    steps: int
    train_images: int
    val_images: int
    finetune_images: int
    finetune_epochs: int
    finetune_factor: float  # factor for the learning rates of recipes, which were published for networks of width 256


CPU = Scale(SMALL, 128, 8, 1e-3, 1200, 600, 200, 160, 12, 256 / SMALL.decoder.width)
CUDA = Scale(zoo.model_config("rtdetrv2_r18vd"), 320, 16, 2e-4, 6000, 4000, 500, 320, 30, 1.0)


class Point(NamedTuple):
    """One evaluation of a run."""

    step: int
    ap: float
    ap50: float


def use_one_thread() -> None:
    """Use one thread per run."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


def recipe_of(scale: Scale, steps: int) -> Recipe:
    """Return the recipe of training from scratch: published losses, flips, and a short schedule."""
    per_epoch = scale.train_images // scale.batch
    epochs = max(round(steps / per_epoch), 1)
    steps = epochs * per_epoch
    return Recipe(
        epochs=epochs,
        batch_size=scale.batch,
        lr=scale.lr,
        grouping="modules",
        schedule="flat_cosine",
        flat_epochs=epochs // 2,
        final_lr_factor=0.05,
        warmup_iterations=steps // 20,
        ema_decay=1 - 1 / max(steps / 20, 2),
        ema_warmup=steps // 100,
        augmentation_stop_epoch=0,
        multiscale_sizes=(),
        train_size_hw=(scale.side, scale.side),
        precision="float32",
    )


class Ours:
    def __init__(self, model: rtdetr.models.RTDETR, recipe: Recipe) -> None:
        self.trained = model.to(memory_format=torch.channels_last)
        self.ema = ModelEMA(self.trained, decay=recipe.ema_decay, warmup=recipe.ema_warmup)
        self._criterion = build_criterion(model.config, loss=recipe.loss)

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        return torch.stack(list(self._criterion(self.trained(images, targets), targets).values())).sum()

    def averaged(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def forward(images: Tensor) -> tuple[Tensor, Tensor]:
            output = self.ema.module(images)
            return output.logits, output.boxes_cxcywh

        return forward


class Transformers:
    """RTDetrV2ForObjectDetection with the weights of our model and its own loss."""

    def __init__(self, model: rtdetr.models.RTDETR, recipe: Recipe) -> None:
        with tempfile.TemporaryDirectory() as folder:
            problems = save_huggingface(model, folder)
            assert not problems, problems
            whole: Any = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder)
        self._whole = whole.to(next(model.parameters()).device).train()
        # the inner model has all parameters once; the outer one has its heads twice and would train them twice
        self.trained: nn.Module = self._whole.model
        self.ema = ModelEMA(self.trained, decay=recipe.ema_decay, warmup=recipe.ema_warmup)

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        return self._whole(pixel_values=images, labels=labels).loss

    def averaged(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        whole = copy.deepcopy(self._whole).eval()
        whole.model.load_state_dict(self.ema.module.state_dict())

        def forward(images: Tensor) -> tuple[Tensor, Tensor]:
            output = whole(pixel_values=images)
            return output.logits, output.pred_boxes

        return forward


LEARNERS = {"ours": Ours, "transformers": Transformers}


def decayed_and_not(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Return how many parameters are trained with and without weight decay."""
    counts = [0, 0]
    for group in optimizer.param_groups:
        counts[group["weight_decay"] == 0] += sum(parameter.numel() for parameter in group["params"])
    return counts[0], counts[1]


def first_loss(who: str, data: Path, *, scale: Scale, device: str) -> float:
    """Return the loss of the first batch before training; the denoising noise is the same for both."""
    recipe = recipe_of(scale, steps=1)
    learner, loader, _ = _start(who, open_dataset(data, split="train"), recipe, scale=scale, seed=0, device=device)
    images, targets = next(iter(loader))
    return learner.loss(images, targets).item()


def _start(
    who: str, train: DetectionDataset, recipe: Recipe, *, scale: Scale, seed: int, device: str
) -> tuple[Ours | Transformers, TrainLoader, torch.optim.Optimizer]:
    """Create learner, loader and optimizer of a seed, the same for both networks."""
    torch.manual_seed(seed)
    model = build_model(scale.network, num_classes=len(train.categories), eval_size_hw=recipe.train_size_hw)
    expected = decayed_and_not(build_optimizer(model, recipe))
    learner: Ours | Transformers = LEARNERS[who](model.to(device), recipe)
    optimizer = build_optimizer(learner.trained, recipe)
    assert decayed_and_not(optimizer) == expected, f"{decayed_and_not(optimizer)} instead of {expected}"
    loader = TrainLoader(train, recipe, seed=seed, device=device, num_workers=0 if device == "cpu" else 4)
    torch.manual_seed(seed)
    return learner, loader, optimizer


def train_from_scratch(
    who: str, data: Path, file: Path, *, scale: Scale, steps: int, seed: int, device: str
) -> list[Point]:
    """Train our network or that of transformers from the same weights on the same batches; evaluate at least six times.

    Evaluations are saved to `file` and read from there when an interrupted benchmark is restarted.
    """
    if file.exists():
        return [Point(*row) for row in json.loads(file.read_text())]
    recipe = recipe_of(scale, steps)
    train, val = (open_dataset(data, split=split) for split in ("train", "val"))
    learner, loader, optimizer = _start(who, train, recipe, scale=scale, seed=seed, device=device)
    network = learner.trained
    every = max(recipe.epochs // 6, 1)
    points: list[Point] = []
    done = 0
    for epoch in range(recipe.epochs):
        network.train()
        loader.set_epoch(epoch)
        for images, targets in loader:
            set_learning_rate(optimizer, recipe, iteration=done, iterations_per_epoch=len(loader))
            optimizer.zero_grad()
            learner.loss(images, targets).backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_max_norm)
            optimizer.step()
            learner.ema.update(network)
            done += 1
        if (recipe.epochs - 1 - epoch) % every == 0:
            points.append(measure(learner.averaged(), val, done=done, size_hw=recipe.train_size_hw, device=device))
    file.write_text(json.dumps(points))
    return points


def measure(
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    dataset: DetectionDataset,
    *,
    done: int,
    size_hw: tuple[int, int],
    device: str,
) -> Point:
    """Evaluate the forward pass of a network, with the same resizing and post-processing for all."""
    names = tuple(dataset.categories.names)

    @torch.inference_mode()
    def predict(loaded: list[LoadedImage]) -> list[Detections]:
        images = torch.stack([torch.from_numpy(preprocess(image, size_hw)) for image in loaded]).to(device)
        logits, boxes = forward(images)
        sizes_wh = torch.tensor([size_of(image) for image in loaded], device=device)
        found = postprocess(logits, boxes, sizes_wh=sizes_wh)
        parts = zip(*(part.cpu().numpy() for part in found), loaded, strict=True)
        return [Detections(box, score, label, names, size_of(image)) for label, box, score, image in parts]

    metrics = evaluate_dataset(predict, dataset, batch_size=25, progress=False).metrics
    return Point(done, metrics.ap, metrics.ap50)


def pretrain(data: Path, folder: Path, *, scale: Scale, steps: int, device: str) -> Path:
    """Train the initial network of the fine-tuning runs on other classes."""
    return _train(
        data, folder, network=scale.network, recipe=recipe_of(scale, steps), evaluate_every=0, device=device, seed=1000
    )


def finetune(
    name: str, data: Path, folder: Path, *, weights: Path, scale: Scale, epochs: int, seed: int, device: str
) -> list[Point]:
    """Fine-tune `weights` on new classes with a recipe, and return the evaluations of `rtdetr.train`."""
    recipe, _, change = name.partition(" with ")
    steps = epochs * (scale.finetune_images // scale.batch)
    base = named_recipes.published(scale.network.name, scale.network)
    if recipe == "finetune":
        base = named_recipes.finetune(base, num_images=scale.finetune_images, batch_size=scale.batch, epochs=epochs)
    _train(
        data,
        folder,
        network=scale.network,
        weights=weights,
        recipe=recipe,
        set={"train.warmup_iterations": steps // 20} if change else {},
        epochs=epochs,
        batch_size=scale.batch,
        lr=base.lr * scale.finetune_factor,
        size_hw=(scale.side, scale.side),
        evaluate_every=max(epochs // 6, 1),
        seed=seed,
        device=device,
    )
    rows = [row for row in read_records(folder) if row["kind"] == "epoch" and row["ap"]]
    return [Point(row["iteration"], row["ap"][0], row["ap"][1]) for row in rows]


def _train(data: Path, folder: Path, **settings: Any) -> Path:
    """Run `rtdetr.train` without output."""
    workers = 0 if settings["device"] == "cpu" else 4
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        name = settings["network"].name
        result = rtdetr.train(
            data, model=name, output_dir=folder, resume="auto", rehearsal=False, workers=workers, **settings
        )
    return finished_weights(result)


def finished_weights(result: TrainResult) -> Path:
    """Return the last weights of a finished run; otherwise exit."""
    if not result.finished:
        raise SystemExit(f"{result.signal}: repeat the command to continue")
    return result.last_weights
