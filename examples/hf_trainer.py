"""Fine-tune an RT-DETRv2 model with Hugging Face Trainer, evaluate and save it, then load it and detect objects.

    python examples/hf_trainer.py DATASET --model PekingU/rtdetr_v2_r18vd
    torchrun --nproc_per_node 2 examples/hf_trainer.py DATASET --model PekingU/rtdetr_v2_r18vd --batch-size 16

DATASET is a folder in COCO, YOLO or Pascal VOC format with a training and a validation split. MODEL is a Hugging Face
hub repository or a folder. The defaults suit a few hundred images and a CPU; on a GPU, use --size 640 --workers 4.
"""

import argparse
import math
import os
from pathlib import Path

import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from rtdetr import zoo
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.hf import RTDetrImageProcessor, RTDetrV2ForObjectDetection
from rtdetr.hf.training import (
    AugmentationSchedule,
    AugmentedDataset,
    AverageWeights,
    CocoMetric,
    EvaluationDataset,
    build_optimizers,
    collate,
    training_arguments,
)
from rtdetr.recipes import change
from rtdetr.recipes.named_recipes import finetune


def main() -> None:
    options = parse_options()
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
    steps_per_epoch = math.ceil(len(train_data) / recipe.batch_size)

    names = train_data.categories.names
    model = RTDetrV2ForObjectDetection.from_pretrained(
        options.model,
        id2label=dict(enumerate(names)),
        label2id={name: label for label, name in enumerate(names)},
        ignore_mismatched_sizes=True,  # the class heads are reinitialized if the classes differ
    )
    processor = RTDetrImageProcessor(size={"height": options.size, "width": options.size})

    train_images = AugmentedDataset(train_data, recipe, seed=options.seed)
    metric = CocoMetric(val_data)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output,
            **training_arguments(recipe, num_processes=int(os.environ.get("WORLD_SIZE", "1"))),
            per_device_eval_batch_size=options.batch_size,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="map",
            logging_steps=10,
            dataloader_num_workers=options.workers,
            seed=options.seed,
            report_to="none",
            use_cpu=not torch.accelerator.is_available(),  # otherwise processes without a GPU run independently
        ),
        train_dataset=train_images,
        eval_dataset=EvaluationDataset(val_data, recipe.train_size_hw),
        data_collator=collate,
        processing_class=processor,  # saved with every checkpoint
        optimizers=build_optimizers(model, recipe, steps_per_epoch=steps_per_epoch),
        callbacks=[AugmentationSchedule(train_images), AverageWeights(recipe)],
        compute_metrics=metric,
        preprocess_logits_for_metrics=metric.collect,
    )
    trainer.train(resume_from_checkpoint=options.resume)
    numbers = trainer.evaluate()
    trainer.save_model()  # the best EMA weights, in the output folder
    if trainer.is_world_process_zero():
        print(f"AP {numbers['eval_map']:.4f}, AP50 {numbers['eval_map_50']:.4f}, loss {numbers['eval_loss']:.4f}")
        detect(options.output, val_data, threshold=options.threshold)


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
    parser.add_argument("--output", default="runs/hf_trainer", help="output folder, also for checkpoints")
    parser.add_argument("--epochs", type=int, default=12, help="number of epochs, default 12")
    parser.add_argument("--batch-size", type=int, default=4, help="images per step, over all processes")
    parser.add_argument("--size", type=int, default=320, help="image size of the network, a multiple of 32")
    parser.add_argument("--workers", type=int, default=0, help="data loader processes")
    parser.add_argument("--threshold", type=float, default=0.5, help="score threshold of printed detections")
    parser.add_argument("--seed", type=int, default=0, help="random seed, default 0")
    parser.add_argument("--resume", help="checkpoint folder to resume from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
