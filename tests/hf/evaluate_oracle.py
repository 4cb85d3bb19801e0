"""Evaluates a model that knows the answers with Trainer and in a loop, in as many processes as torchrun starts.

    torchrun --nproc_per_node 2 tests/hf/evaluate_oracle.py FOLDER

FOLDER holds images/ and data.json. Each process writes FOLDER/WORLD_SIZE-RANK.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.utils import ModelOutput

from rtdetr.data import DetectionDataset
from rtdetr.hf.training import CocoMetric, EvaluationDataset, collate


class Oracle(nn.Module):
    """Finds every object, most of them a little beside their place."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, pixel_values: Tensor, labels: list[dict[str, Tensor]]) -> ModelOutput:
        logits, boxes = torch.full((len(labels), 8, 3), -9.0), torch.full((len(labels), 8, 4), 0.5)
        for i, label in enumerate(labels):
            generator = torch.Generator().manual_seed(int(label["image_id"]))
            count = len(label["boxes"])
            boxes[i, :count] = label["boxes"] * (1 + 0.1 * torch.rand(count, 4, generator=generator))
            logits[i, torch.arange(count), label["class_labels"]] = torch.randn(count, generator=generator)
        return ModelOutput(loss=self.unused * 0, loss_dict={}, logits=logits, pred_boxes=boxes)


def main() -> None:
    folder = Path(sys.argv[1])
    data = DetectionDataset(folder / "images", folder / "data.json")
    images, metric = EvaluationDataset(data, (64, 64)), CocoMetric(data)
    arguments: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    results = []
    for batch_eval_metrics in (True, False):
        trainer = Trainer(
            model=Oracle(),
            args=TrainingArguments(
                str(folder / "out"),
                per_device_eval_batch_size=2,
                batch_eval_metrics=batch_eval_metrics,
                remove_unused_columns=False,
                **arguments,
            ),
            eval_dataset=images,
            data_collator=collate,
            compute_metrics=metric,
            preprocess_logits_for_metrics=metric.collect,
        )
        found = trainer.evaluate()
        results.append({name.removeprefix("eval_"): value for name, value in found.items() if "_ma" in name})
    accelerator = Accelerator(cpu=True)
    model, loader = accelerator.prepare(Oracle(), DataLoader(images, batch_size=2, collate_fn=collate))
    for batch in loader:
        metric.add(model(**batch), batch["labels"])
    results.append(metric.compute())
    name = f"{os.environ.get('WORLD_SIZE', '1')}-{os.environ.get('RANK', '0')}.json"
    (folder / name).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
