import random

import numpy as np
import pytest
import torch

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.errors import ConfigError, DatasetError
from tests.coco_files import annotation, many_images, write_dataset

RECIPE = Recipe(batch_size=4, train_size_hw=(64, 64), multiscale_sizes=(32, 64, 96), augmentation_stop_epoch=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return DetectionDataset(*write_dataset(tmp_path_factory.mktemp("set"), many_images(22)))


def epoch(loader, number=0, *, start_batch=0):
    loader.set_epoch(number, start_batch=start_batch)
    return list(loader)


def assert_same(left, right):
    assert len(left) == len(right)
    for (images, targets), (other_images, other_targets) in zip(left, right, strict=True):
        assert torch.equal(images, other_images)
        for target, other in zip(targets, other_targets, strict=True):
            assert torch.equal(target["labels"], other["labels"])
            assert torch.equal(target["boxes"], other["boxes"])


def test_batches_are_what_the_network_takes(dataset):
    loader = TrainLoader(dataset, RECIPE)
    batches = epoch(loader)
    assert len(batches) == len(loader) == 5  # two images are left over
    for images, targets in batches:
        assert images.dtype == torch.float32
        assert images.shape[:2] == (4, 3)
        assert images.shape[2] == images.shape[3]
        assert images.shape[2] in (32, 64, 96)
        assert 0 <= images.min() < images.max() <= 1
        assert len(targets) == 4
        assert all(target["boxes"].shape == (len(target["labels"]), 4) for target in targets)
    assert sum(len(target["labels"]) for _, targets in batches for target in targets) > 20
    assert len({images.shape[2] for number in range(3) for images, _ in epoch(loader, number)}) == 3


def test_workers_make_no_difference(dataset):
    alone = TrainLoader(dataset, RECIPE, seed=5)
    helped = TrainLoader(dataset, RECIPE, seed=5, num_workers=2)
    for number in (0, 1, 2, 0):  # the workers persist from one epoch to the next
        assert_same(epoch(alone, number), epoch(helped, number))
    for _ in helped:
        break  # an epoch that is left early
    assert_same(epoch(alone, 1, start_batch=3), epoch(helped, 1, start_batch=3))


def test_an_epoch_can_be_entered_in_the_middle(dataset):
    loader = TrainLoader(dataset, RECIPE)
    whole = epoch(loader, 1)
    assert_same(whole[2:], epoch(loader, 1, start_batch=2))
    assert epoch(loader, 1, start_batch=5) == []
    assert len(loader) == 5


def test_epochs_and_seeds_differ(dataset):
    first = epoch(TrainLoader(dataset, RECIPE), 0)
    for other in (epoch(TrainLoader(dataset, RECIPE), 1), epoch(TrainLoader(dataset, RECIPE, seed=1), 0)):
        assert not any(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_global_generators_are_not_touched(dataset):
    for workers in (0, 1):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        epoch(TrainLoader(dataset, RECIPE, num_workers=workers))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_processes_share_each_batch_and_agree_on_its_size(dataset):
    recipe = RECIPE.replace(batch_size=6)
    whole = epoch(TrainLoader(dataset, recipe))
    shares = [epoch(TrainLoader(dataset, recipe, rank=rank, world_size=3)) for rank in range(3)]
    for position, (images, targets) in enumerate(whole):
        for rank, share in enumerate(shares):
            assert torch.equal(share[position][0], images[rank::3])
            assert [t["labels"].tolist() for t in share[position][1]] == [
                t["labels"].tolist() for t in targets[rank::3]
            ]


def test_a_batch_that_cannot_be_shared_evenly_is_refused(dataset):
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of the 3 processes"):
        TrainLoader(dataset, RECIPE, world_size=3)


def test_a_dataset_smaller_than_a_batch_is_one_batch(tmp_path):
    small = DetectionDataset(*write_dataset(tmp_path, many_images(3)))
    loader = TrainLoader(small, RECIPE)
    assert [images.shape[0] for images, _ in epoch(loader)] == [3] * len(loader) == [3]
    shares = [epoch(TrainLoader(small, RECIPE, rank=rank, world_size=4)) for rank in range(4)]
    assert [images.shape[0] for share in shares for images, _ in share] == [1, 1, 1, 1]


def test_other_sizes_repeat_the_nearest_pixels(dataset):
    plain = RECIPE.replace(augmentation_stop_epoch=0)
    base = epoch(TrainLoader(dataset, plain.replace(multiscale_sizes=())))
    double = epoch(TrainLoader(dataset, plain.replace(multiscale_sizes=(128,))))
    for (images, targets), (larger, same_targets) in zip(base, double, strict=True):
        assert torch.equal(larger, images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, same_targets, strict=True))


def test_the_schedule_ends_augmentation_and_other_sizes(dataset):
    recipe = RECIPE.replace(augmentation_stop_epoch=1, multiscale_stop_epoch=1)
    early, late = (epoch(TrainLoader(dataset, recipe), number) for number in (0, 1))
    assert {images.shape[2] for images, _ in early} > {64}
    assert {images.shape[2] for images, _ in late} == {64}
    visible = [sum(len(target["labels"]) for _, targets in batches for target in targets) for batches in (early, late)]
    assert visible[0] < visible[1]  # crops remove objects


def test_crowd_regions_are_not_trained(tmp_path):
    content = many_images(4)
    content["annotations"] = [
        annotation(1, 1, 3, [2, 2, 20, 20], iscrowd=1),
        annotation(2, 1, 7, [5, 5, 20, 20], iscrowd=0),
    ]
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    [(_, targets)] = epoch(TrainLoader(dataset, RECIPE.replace(augmentation_stop_epoch=0)))
    assert [target["labels"].tolist() for target in targets if len(target["labels"])] == [[1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_reported_as_it_is(tmp_path, workers):
    dataset = DetectionDataset(*write_dataset(tmp_path, many_images(8)))
    dataset.path(3).write_bytes(b"no image")
    loader = TrainLoader(dataset, RECIPE, num_workers=workers)
    with pytest.raises(DatasetError) as caught:
        epoch(loader)
    assert str(caught.value).endswith("4.png is not an image in a format that Pillow reads")
    assert "Traceback" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_on_the_gpu_as_they_would_on_the_cpu(dataset, workers):
    for (images, targets), (moved, moved_targets) in zip(
        epoch(TrainLoader(dataset, RECIPE)),
        epoch(TrainLoader(dataset, RECIPE, num_workers=workers, device="cuda")),
        strict=True,
    ):
        assert moved.is_cuda
        torch.testing.assert_close(moved.cpu(), images, atol=1e-7, rtol=0)
        assert all(
            torch.equal(one["boxes"], other["boxes"].cpu()) for one, other in zip(targets, moved_targets, strict=True)
        )
