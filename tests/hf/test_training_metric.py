"""COCO numbers through Trainer's hooks and through a loop, beside those of the evaluator itself."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError
from rtdetr.evaluation import CocoEvaluator
from rtdetr.hf.training import CocoMetric
from rtdetr.models.postprocess import postprocess
from tests.coco_files import document, many_images, write_dataset


@pytest.fixture
def images(tmp_path: Path) -> DetectionDataset:
    return DetectionDataset(*write_dataset(tmp_path, document()))


def labels_of(data: DetectionDataset, indices: range) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "image_id": torch.tensor([int(data.image_ids[index])]),
            "orig_size": torch.from_numpy(data.annotations.sizes_wh[index][::-1].copy()),
            "boxes": torch.zeros(index, 4),
        }
        for index in indices
    ]


def guesses(data: DetectionDataset, index: int, num_queries: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and boxes (q, ...) that are near the truth and beside it."""
    generator = torch.Generator().manual_seed(index)
    found = data.target(index)
    logits = torch.randn(num_queries, len(data.categories), generator=generator) - 3
    boxes = torch.rand(num_queries, 4, generator=generator) * 0.5
    for query, (box, label) in enumerate(zip(found["boxes_xyxy"], found["labels"], strict=True)):
        width, height = found["size_wh"]
        x0, y0, x1, y1 = box / (width, height, width, height)
        boxes[query] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * 0.9, y1 - y0])
        logits[query, label] = 2.0
    return logits, boxes


def outputs_of(data: DetectionDataset, indices: range) -> Any:
    logits, boxes = zip(*(guesses(data, index) for index in indices), strict=True)
    return SimpleNamespace(logits=torch.stack(logits), pred_boxes=torch.stack(boxes))


def expected_numbers(data: DetectionDataset) -> tuple[float, ...]:
    evaluator = CocoEvaluator(data)
    for index in range(len(data)):
        logits, boxes = guesses(data, index)
        sizes_wh = torch.from_numpy(data.annotations.sizes_wh[index : index + 1])
        found = postprocess(logits[None], boxes[None], sizes_wh=sizes_wh)
        classes, corners, scores = (part[0].numpy() for part in found)
        evaluator.add(int(data.image_ids[index]), boxes_xyxy=corners, scores=scores, labels=classes)
    return evaluator.summarize().numbers


def test_a_loop_gets_the_evaluators_numbers(images: DetectionDataset) -> None:
    metric = CocoMetric(images, per_class=True)
    for indices in (range(2), range(1, 3)):  # image 1 comes twice
        metric.add(outputs_of(images, indices), labels_of(images, indices))
    numbers = metric.compute()
    expected = expected_numbers(images)
    assert 0.3 < expected[0] < 1
    assert list(numbers)[:12] == [
        *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
        *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
    ]
    assert tuple(numbers.values())[:12] == pytest.approx(expected, abs=1e-12)
    assert {"map_cat", "map_dog", "map_bird"} == set(list(numbers)[12:])


def test_each_evaluation_starts_empty(images: DetectionDataset) -> None:
    metric = CocoMetric(images)
    everything = range(len(images))
    metric.add(outputs_of(images, everything), labels_of(images, everything))
    first = metric.compute()
    assert metric.compute()["map"] == 0.0
    metric.add(outputs_of(images, everything), labels_of(images, everything))
    assert metric.compute() == first


def test_trainers_hooks_forget_outputs_and_labels(images: DetectionDataset) -> None:
    metric = CocoMetric(images)
    for indices in (range(2), range(2, 3)):
        outputs, labels = outputs_of(images, indices), labels_of(images, indices)
        predictions = ({"loss_vfl": torch.tensor(1.0)}, outputs.logits, outputs.pred_boxes, torch.zeros(2, 30, 8))
        kept = metric.collect(predictions, labels)
        assert kept.tolist() == images.image_ids[list(indices)].tolist() and labels == []
        result = metric(SimpleNamespace(predictions=kept, label_ids=labels), compute_result=indices.stop == 3)
        assert bool(result) == (indices.stop == 3)
    assert tuple(result.values()) == pytest.approx(expected_numbers(images), abs=1e-12)


def test_predictions_without_labels_are_passed_through(images: DetectionDataset) -> None:
    predictions = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    assert CocoMetric(images).collect(predictions, None) is predictions


def test_mistakes_are_named(images: DetectionDataset) -> None:
    metric = CocoMetric(images)
    with pytest.raises(InputError, match=r"preprocess_logits_for_metrics=metric\.collect"):
        metric(SimpleNamespace(predictions=None, label_ids=[]))
    with pytest.raises(InputError, match=r"among the predictions, got \(2, 3, 4\)"):
        metric.collect((torch.zeros(2, 3, 4),), labels_of(images, range(2)))
    wrong = labels_of(images, range(1))
    wrong[0]["image_id"] = torch.tensor([99])
    with pytest.raises(InputError, match="got 99"):
        metric.add(outputs_of(images, range(1)), wrong)


def test_the_last_detections_of_a_repeated_image_count(images: DetectionDataset) -> None:
    metric, everything = CocoMetric(images), range(len(images))
    nothing = SimpleNamespace(logits=torch.full((3, 6, 3), -9.0), pred_boxes=torch.rand(3, 6, 4))
    metric.add(nothing, labels_of(images, everything))  # an evaluation that was broken off
    metric.add(outputs_of(images, everything), labels_of(images, everything))
    assert tuple(metric.compute().values()) == pytest.approx(expected_numbers(images), abs=1e-12)


def test_beyond_the_first_hundred_images_cost_no_memory(tmp_path: Path) -> None:
    data = DetectionDataset(*write_dataset(tmp_path, many_images(200)))
    metric = CocoMetric(data)
    outputs = SimpleNamespace(logits=torch.randn(8, 300, 3), pred_boxes=torch.rand(8, 300, 4))
    tracemalloc.start()
    try:
        used = []
        for first in range(0, 200, 8):
            metric.add(outputs, labels_of(data, range(first, first + 8)))
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(used) < 2**21
    assert used[-1] - used[16] < 20_000 and used[16] < 100_000  # 60 images have 500 kB of detections


@pytest.mark.slow
def test_several_processes_get_the_numbers_of_one(tmp_path: Path) -> None:
    write_dataset(tmp_path, many_images(11))  # not a multiple of what two processes share
    script = Path(__file__).with_name("evaluate_oracle.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        command = [sys.executable, *launcher, str(script), str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert alone == first == second and alone[0] == alone[1] == alone[2]
    assert 0.2 < alone[0]["map"] < 0.95


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
def test_memory_does_not_grow_with_thousands_of_images() -> None:
    script = Path(__file__).with_name("evaluate_many.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    few, many = (
        float(subprocess.check_output([sys.executable, str(script), str(count)], env=environment, timeout=300))
        for count in (50, 1500)
    )
    assert many - few < 10, (few, many)  # MiB; detections that are kept cost 8 kB an image, outputs 100 kB
