"""Items in transformers' form, their augmentation over the epochs, and batches of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import RTDetrImageProcessor

from rtdetr.data import DetectionDataset
from rtdetr.errors import ConfigError, DatasetError, InputError
from rtdetr.hf.training import AugmentedDataset, EvaluationDataset, collate
from tests.coco_files import document, write_dataset
from tests.hf.training_parts import SIZE_HW, dataset, recipe

LABELS = {"class_labels", "boxes", "area", "iscrowd", "image_id", "orig_size", "size"}


@pytest.fixture
def images(tmp_path: Path) -> DetectionDataset:
    """Image 10 without objects, 20 with two and a crowd, one of them a pixel wide, 30 with one at the border."""
    return DetectionDataset(*write_dataset(tmp_path, document()))


def test_evaluation_items_are_those_of_transformers(images: DetectionDataset) -> None:
    height, width = SIZE_HW
    processor = RTDetrImageProcessor(size={"height": height, "width": width})
    items = EvaluationDataset(images, SIZE_HW)
    for index in range(len(images)):
        image, found = images.load(index)
        corners = found["boxes_xyxy"]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        rows = zip(boxes, found["labels"].tolist(), found["iscrowd"].tolist(), strict=True)
        objects = [
            {"bbox": box, "category_id": label, "area": box[2] * box[3], "iscrowd": int(crowd)}
            for box, label, crowd in rows
        ]
        annotation = {"image_id": found["image_id"], "annotations": objects}
        expected = processor(images=image, annotations=annotation, return_tensors="pt")
        got, labels = items[index], items[index]["labels"]
        assert torch.allclose(got["pixel_values"], expected["pixel_values"][0], atol=1.01 / 255)
        assert set(labels) == set(expected["labels"][0]) == LABELS
        for name, value in expected["labels"][0].items():
            assert labels[name].dtype == value.dtype and labels[name].shape == value.shape, name
            assert torch.allclose(labels[name], value, rtol=1e-4, atol=1e-4), name


def test_augmented_items_have_the_size_and_the_objects_that_are_left(images: DetectionDataset) -> None:
    items = AugmentedDataset(images, recipe(epochs=9))
    for epoch in range(4):
        items.set_epoch(epoch)
        for index in range(len(items)):
            item = items[index]
            assert item["pixel_values"].shape == (3, *SIZE_HW)
            assert item["pixel_values"].dtype == torch.float32 and item["pixel_values"].min() >= 0
            assert item["pixel_values"].max() <= 1
            boxes = item["labels"]["boxes"]
            assert boxes.shape == (len(item["labels"]["class_labels"]), 4)
            assert ((boxes >= 0) & (boxes <= 1)).all()
            assert item["labels"]["orig_size"].tolist() == list(reversed(images.annotations.sizes_wh[index].tolist()))
    empty = items[0]["labels"]
    assert empty["image_id"].tolist() == [10] and empty["boxes"].shape == (0, 4) and len(empty["area"]) == 0


def test_augmentation_depends_on_seed_epoch_and_index_and_stops(images: DetectionDataset) -> None:
    def pixels(epoch: int, seed: int = 0) -> torch.Tensor:
        items = AugmentedDataset(images, recipe(epochs=4).replace(flip=0.0), seed=seed)
        items.set_epoch(epoch)
        return items[1]["pixel_values"]

    assert torch.equal(pixels(0), pixels(0))
    assert not torch.equal(pixels(0), pixels(1))
    assert not torch.equal(pixels(0), pixels(0, seed=1))
    assert torch.equal(pixels(3), pixels(3, seed=1))  # the last epoch is plain


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_epoch(images: DetectionDataset, persistent: bool) -> None:
    items = AugmentedDataset(images, recipe(epochs=4))
    workers = DataLoader(items, num_workers=1, persistent_workers=persistent, collate_fn=collate)
    for epoch in (0, 1, 3):
        items.set_epoch(epoch)
        got = torch.cat([batch["pixel_values"] for batch in workers])
        assert torch.equal(got, torch.stack([items[index]["pixel_values"] for index in range(len(items))]))


def test_a_broken_image_is_named(images: DetectionDataset) -> None:
    images.path(1).write_bytes(b"no image")
    for items in (AugmentedDataset(images, recipe()), EvaluationDataset(images, SIZE_HW)):
        with pytest.raises(DatasetError, match="image 20"):
            items[1]


def test_mixup_and_repeats_are_refused(images: DetectionDataset) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.replace\(mixup=0\.0\)"):
        AugmentedDataset(images, recipe().replace(mixup=0.5))
    with pytest.raises(ConfigError, match=r"repeats 1, got 2: .*recipe\.replace\(repeats=1\)"):
        AugmentedDataset(images, recipe().replace(repeats=2))


def test_collate_takes_our_items_and_those_of_an_image_processor(tmp_path: Path) -> None:
    items = EvaluationDataset(dataset(tmp_path), SIZE_HW)
    batch = collate([items[0], items[1]])
    assert batch["pixel_values"].shape == (2, 3, *SIZE_HW) and set(batch) == {"pixel_values", "labels"}
    assert [label["image_id"].item() for label in batch["labels"]] == [1, 2]
    processor = RTDetrImageProcessor(do_pad=True, pad_size={"height": 64, "width": 64}, do_resize=False)
    pictures = [Image.new("RGB", size) for size in ((40, 50), (64, 32))]
    processed = [processor(images=picture, return_tensors="pt") for picture in pictures]
    batch = collate([{name: value[0] for name, value in one.items()} for one in processed])
    assert batch["pixel_values"].shape == (2, 3, 64, 64) and batch["pixel_mask"].shape == (2, 64, 64)
    assert "labels" not in batch


def test_collate_refuses_several_sizes() -> None:
    with pytest.raises(InputError, match=r"pixel_values: expected one size per batch, got \(3, 32, 32\) and"):
        collate([{"pixel_values": torch.zeros(3, 64, 32)}, {"pixel_values": torch.zeros(3, 32, 32)}])
