"""Fine-tune an RT-DETRv2 model in your own training loop with Hugging Face Accelerate.

    python examples/hf_accelerate.py DATASET --model PekingU/rtdetr_v2_r18vd
    accelerate launch --num_processes 2 examples/hf_accelerate.py DATASET --batch-size 16          # two GPUs
    torchrun --standalone --nproc-per-node 2 examples/hf_accelerate.py DATASET --batch-size 16     # or CPUs

DATASET is a folder in COCO, YOLO or Pascal VOC format with a training and a validation split. MODEL is a Hugging Face
hub repository or a folder. The defaults suit a few hundred images and a CPU; on a GPU, use --size 640 --workers 4.
hf_trainer.py does the same with Trainer.
"""

import argparse
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from rtdetr import zoo
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.hf import RTDetrImageProcessor, RTDetrV2ForObjectDetection
from rtdetr.hf.training import (
    AugmentedDataset,
    CocoMetric,
    EvaluationDataset,
    batch_size_hw,
    build_optimizers,
    collate,
    resize_batch,
)
from rtdetr.recipes import change
from rtdetr.recipes.named_recipes import finetune
from rtdetr.training import ModelEMA


def main() -> None:
    options = parse_options()
    set_seed(options.seed)
    train_data = open_dataset(options.data, split="train")
    val_data = open_dataset(options.data, split="val", categories=train_data.categories)

    # the recipe has all training settings, adapted to the number of images
    recipe = finetune(
        zoo.recipe(options.recipe),
        num_images=len(train_data),
        batch_size=options.batch_size,
        epochs=options.epochs,
    )
    recipe = change(recipe, {"train_size_hw": (options.size, options.size)})
    on_cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, gradient_accumulation_steps=recipe.accumulate)

    names = train_data.categories.names
    model = RTDetrV2ForObjectDetection.from_pretrained(
        options.model,
        id2label=dict(enumerate(names)),
        label2id={name: label for label, name in enumerate(names)},
        ignore_mismatched_sizes=True,  # the class heads are reinitialized if the classes differ
    )

    train_images = AugmentedDataset(train_data, recipe, seed=options.seed)
    train_loader = DataLoader(
        train_images,
        batch_size=recipe.batch_size // (accelerator.num_processes * recipe.accumulate),
        shuffle=True,
        num_workers=options.workers,
        collate_fn=collate,
    )
    val_images = EvaluationDataset(val_data, recipe.train_size_hw)
    val_loader = DataLoader(val_images, batch_size=options.batch_size, num_workers=options.workers, collate_fn=collate)
    steps_per_epoch = math.ceil(len(train_data) / recipe.batch_size)
    optimizer, scheduler = build_optimizers(model, recipe, steps_per_epoch=steps_per_epoch)
    # not the scheduler: it counts steps, and Accelerate would advance it once per process
    model, optimizer, train_loader, val_loader = accelerator.prepare(model, optimizer, train_loader, val_loader)
    raw_model = accelerator.unwrap_model(model)
    ema = ModelEMA(raw_model, decay=recipe.ema_decay, warmup=recipe.ema_warmup)
    metric = CocoMetric(val_data)
    accelerator.print(f"training in {accelerator.num_processes} process(es) on {accelerator.device}")

    step = 0
    for epoch in range(recipe.epochs):
        model.train()
        train_images.set_epoch(epoch)
        total = 0.0
        for batch in train_loader:
            size_hw = batch_size_hw(recipe, epoch=epoch, step=step, seed=options.seed)  # the same in every process
            with accelerator.accumulate(model):
                images = resize_batch(batch["pixel_values"], size_hw)
                loss = model(pixel_values=images, labels=batch["labels"]).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.clip_max_norm or math.inf)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                scheduler.step()
                ema.update(raw_model)
                step += 1
            total += loss.item()
        numbers = evaluate(ema.module, val_loader, metric)
        accelerator.print(
            f"epoch {epoch + 1}: loss {total / len(train_loader):.4f}, AP {numbers['map']:.4f}, "
            f"AP50 {numbers['map_50']:.4f}"
        )

    if accelerator.is_main_process:
        ema.module.save_pretrained(options.output)
        processor = RTDetrImageProcessor(size={"height": options.size, "width": options.size})
        processor.save_pretrained(options.output)
        detect(options.output, val_data, threshold=options.threshold)
    accelerator.end_training()


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, metric: CocoMetric) -> dict[str, float]:
    """Return the COCO metrics; each process evaluates its share of the images."""
    for batch in loader:
        metric.add(model(pixel_values=batch["pixel_values"]), batch["labels"])
    return metric.compute()


@torch.inference_mode()
def detect(folder: str, data: DetectionDataset, *, threshold: float) -> None:
    """Load the saved model and print its detections in one image."""
    model = RTDetrV2ForObjectDetection.from_pretrained(folder).eval()
    processor = RTDetrImageProcessor.from_pretrained(folder)
    image = Image.open(data.path(0))
    outputs = model(**processor(images=image, return_tensors="pt"))
    found = processor.post_process_object_detection(
        outputs, target_sizes=[(image.height, image.width)], threshold=threshold
    )[0]
    print(f"{len(found['scores'])} objects in {data.path(0).name}")
    for score, label, box in zip(found["scores"], found["labels"], found["boxes"], strict=True):
        corners = ", ".join(f"{corner:.1f}" for corner in box.tolist())
        print(f"  {model.config.id2label[label.item()]} {score:.2f} [{corners}]")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the dataset")
    parser.add_argument("--model", default="PekingU/rtdetr_v2_r18vd", help="hub repository or folder")
    parser.add_argument(
        "--recipe", default="rtdetrv2_r18vd", help="zoo model with the size of yours, whose learning rates are used"
    )
    parser.add_argument("--output", default="runs/hf_accelerate", help="output folder")
    parser.add_argument("--epochs", type=int, default=12, help="number of epochs, default 12")
    parser.add_argument("--batch-size", type=int, default=4, help="images per step, over all processes")
    parser.add_argument("--size", type=int, default=320, help="image size of the network, a multiple of 32")
    parser.add_argument("--workers", type=int, default=0, help="data loader processes")
    parser.add_argument("--threshold", type=float, default=0.5, help="score threshold of printed detections")
    parser.add_argument("--seed", type=int, default=0, help="random seed, default 0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
