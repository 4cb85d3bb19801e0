"""Previews of the batches, and that drawing them changes no batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr import zoo
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.reports.previews import contact_sheet, draw_batches, draw_target
from rtdetr.structures import Target
from tests.coco_files import many_images, write_dataset

RECIPE = zoo.recipe("test-tiny").replace(batch_size=4, epochs=3, augmentation_stop_epoch=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DetectionDataset(*write_dataset(tmp_path_factory.mktemp("data"), many_images(12)))


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return [(images.clone(), targets) for images, targets in loader]


@pytest.mark.parametrize("workers", [0, 1])
def test_drawing_changes_no_batch_and_no_random_generator(data, tmp_path, workers):
    untouched = epoch_of(TrainLoader(data, RECIPE, seed=5), 0)
    loader = TrainLoader(data, RECIPE, seed=5, num_workers=workers)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw_batches(loader, tmp_path, names=data.categories.names, counts={0: 2, 2: 1})
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    after = epoch_of(loader, 0)
    assert len(after) == len(untouched) == 3
    for (images, targets), (expected, expected_targets) in zip(after, untouched, strict=True):
        assert torch.equal(images, expected)
        for one, other in zip(targets, expected_targets, strict=True):
            assert torch.equal(one["boxes"], other["boxes"])
            assert torch.equal(one["labels"], other["labels"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["batch_epoch1_1.png", "batch_epoch1_2.png", "batch_epoch3_1.png"]
    with Image.open(tmp_path / names[0]) as picture:
        assert picture.size == (2 * 320 + 8, 2 * 320 + 8)


def test_more_batches_than_there_are(data, tmp_path):
    draw_batches(TrainLoader(data, RECIPE), tmp_path, names=data.categories.names, counts={0: 9})
    assert len(list(tmp_path.iterdir())) == 3


def test_boxes_are_drawn_where_they_are():
    target = Target(labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.25, 0.5]]))
    picture = np.asarray(draw_target(torch.zeros(3, 64, 128), target, names=["a", "b"]))
    rows, columns = np.nonzero(picture[20:].sum(2))  # below the label
    assert (columns.min(), columns.max()) == pytest.approx((48, 79), abs=2)
    assert rows.max() + 20 == pytest.approx(47, abs=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_and_without_objects(channels):
    image = torch.full((channels, 32, 48), 0.5)
    picture = draw_target(image, Target(labels=torch.zeros(0).long(), boxes=torch.zeros(0, 4)), names=["a"])
    assert picture.size == (48, 32)
    assert set(np.asarray(picture).ravel().tolist()) == {128}


def test_a_contact_sheet_of_different_shapes():
    pictures = [Image.new("RGB", size, "black") for size in ((10, 20), (640, 320), (1, 1), (3, 1000))]
    assert contact_sheet(pictures).size == (160 + 8 + 320, 320 + 8 + 320)
    assert contact_sheet(pictures[:1]).size == (160, 320)
