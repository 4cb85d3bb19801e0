import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, TrainLoader, batches
from rtdetr.errors import ConfigError, DatasetError, TrainingError
from tests.coco_files import annotation, many_images, write_dataset

RECIPE = Recipe(batch_size=4, train_size_hw=(64, 64), multiscale_sizes=(32, 64, 96), augmentation_stop_epoch=2)
DENSE = RECIPE.replace(mosaic=0.5, mixup=0.5)


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


def test_batches_have_the_types_of_the_network(dataset):
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


def test_images_that_cannot_be_read(tmp_path, caplog):
    folder, file = write_dataset(tmp_path, many_images(8))
    dataset = DetectionDataset(folder, file)
    broken = dataset.path(3)
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(
        DatasetError, match=r"image 4: .*'rtdetr data check' finds every such image, .* --bad-images skip"
    ):
        epoch(TrainLoader(dataset, RECIPE))
    tolerant = TrainLoader(dataset.skipping_bad_images(), DENSE.replace(batch_size=8))
    assert_same(epoch(tolerant), epoch(tolerant))
    assert [len(targets) for _, targets in epoch(tolerant)] == [8]
    assert caplog.text.count("skipped") == 1 and str(broken) in caplog.text
    for index in range(8):
        dataset.path(index).write_bytes(b"")
    with pytest.raises(DatasetError, match="none of its 8 images can be read"):
        epoch(TrainLoader(dataset.skipping_bad_images(), RECIPE))


def test_workers_do_not_change_batches(dataset):
    alone = TrainLoader(dataset, DENSE, seed=5, balance=True)
    helped = TrainLoader(dataset, DENSE, seed=5, balance=True, num_workers=2)
    for number in (0, 1, 2, 0):  # the workers persist from one epoch to the next
        assert_same(epoch(alone, number), epoch(helped, number))
    for _ in helped:
        break  # an epoch that is left early
    assert_same(epoch(alone, 1, start_batch=3), epoch(helped, 1, start_batch=3))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start their workers in their own way")
def test_full_shared_memory_does_not_change_batches(dataset, monkeypatch, caplog):
    collate = batches.default_collate

    def full_in_workers(images):
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
            )
        return collate(images)

    expected = epoch(TrainLoader(dataset, DENSE, seed=5))
    monkeypatch.setattr(batches, "default_collate", full_in_workers)
    loader = TrainLoader(dataset, DENSE, seed=5, num_workers=2)
    assert_same(epoch(loader), expected)
    epoch(loader, 1)
    assert [text for text in caplog.messages if "--shm-size" in text] == [
        "shared memory (/dev/shm) is full, so workers send images through pipes, which is slower. Enlarge it "
        "(docker run --shm-size=8g), or use fewer workers"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start their workers in their own way")
def test_workers_share_the_columns_with_every_start_method(dataset):
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        # a local function cannot be sent to a process, only be inherited by it
        loader = TrainLoader(dataset, RECIPE, num_workers=1, transforms=lambda image, target: (image, target))
        assert len(epoch(loader)) == 5
    finally:
        multiprocessing.set_start_method(usual, force=True)


def test_an_epoch_can_start_in_the_middle(dataset):
    loader = TrainLoader(dataset, DENSE)
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
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # `random` is drawn from by beartype
        epoch(TrainLoader(dataset, DENSE, num_workers=workers))
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])


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
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of the number of processes, 3"):
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


def test_repeated_images_are_augmented_differently(tmp_path):
    # a rare class is repeated; its showings differ
    content = many_images(40)
    content["annotations"] = [annotation(i, i, 3, [4, 4, 20, 20]) for i in range(1, 40)]
    content["annotations"] += [annotation(40, 40, 7, [4, 4, 20, 20])]
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    loader = TrainLoader(dataset, RECIPE.replace(batch_size=2), balance=True)
    loader.set_epoch(0)
    ids = np.concatenate([loader.image_ids(batch) for batch in range(len(loader))])
    images = torch.cat([functional.interpolate(images, size=(64, 64)) for images, _ in loader])
    rare = images[torch.from_numpy(ids == 40)]
    assert len(rare) in (3, 4)  # sqrt(median share 0.5 / share 0.025) = 4.5, of 43 images one may be left over
    assert not any(torch.equal(rare[0], other) for other in rare[1:])


@pytest.mark.parametrize(("batch_size", "repeats", "world_size"), [(4, 2, 1), (6, 3, 2), (8, 2, 2), (4, 4, 1)])
def test_each_image_is_repeated_within_its_batch(dataset, batch_size, repeats, world_size):
    recipe = RECIPE.replace(batch_size=batch_size, repeats=repeats)
    samplers = [TrainLoader(dataset, recipe, rank=rank, world_size=world_size)._sampler for rank in range(world_size)]
    for number in (0, 1):
        seen: list[int] = []
        for sampler in samplers:
            sampler.epoch = number
        for shares in zip(*samplers, strict=True):
            images = np.concatenate([key.indices for key in shares])
            assert len(images) == batch_size
            assert np.unique(images, return_counts=True)[1].tolist() == [repeats] * (batch_size // repeats)
            positions = np.concatenate([key.positions for key in shares])
            assert sorted(positions) == list(range(shares[0].batch * batch_size, (shares[0].batch + 1) * batch_size))
            seen += np.unique(images).tolist()
        assert len(seen) == len(set(seen)) == 22 // batch_size * (batch_size // repeats)  # as many steps as otherwise


def test_repeats_are_augmented_differently_and_reproducibly(dataset):
    recipe = DENSE.replace(repeats=2)
    loader = TrainLoader(dataset, recipe)
    whole = epoch(loader, 1)
    assert len(whole) == len(loader) == 5
    assert all(len(images.unique(dim=0)) == 4 for images, _ in whole)
    assert_same(whole[2:], epoch(loader, 1, start_batch=2))
    assert_same(whole, epoch(TrainLoader(dataset, recipe, num_workers=1), 1))
    share = epoch(TrainLoader(dataset, recipe.replace(mixup=0.0), rank=1, world_size=2), 1)
    alone = epoch(TrainLoader(dataset, recipe.replace(mixup=0.0)), 1)
    assert all(torch.equal(images[1::2], own) for (images, _), (own, _) in zip(alone, share, strict=True))


def test_mixup_of_an_image_with_its_repeat_is_refused(dataset):
    recipe = RECIPE.replace(batch_size=4, repeats=2, mixup=0.5)
    TrainLoader(dataset, recipe)
    with pytest.raises(ConfigError, match="2 processes, mixup would blend an image with itself"):
        TrainLoader(dataset, recipe, world_size=2)


def test_repeats_in_a_dataset_smaller_than_a_batch(tmp_path):
    small = DetectionDataset(*write_dataset(tmp_path, many_images(3)))
    for batch_size, repeats in ((8, 1), (8, 2), (12, 4)):
        loader = TrainLoader(small, RECIPE.replace(batch_size=batch_size, repeats=repeats))
        [key] = loader._sampler
        assert loader._sampler.share_of_batch() == len(key.indices)
        assert np.unique(key.indices, return_counts=True)[1].tolist() == [repeats] * 3
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of repeats, 3"):
        TrainLoader(small, RECIPE.replace(repeats=3))


def test_mixup_blends_pairs_and_gives_both_their_objects(dataset):
    plain = RECIPE.replace(mixup=0.0, multiscale_sizes=())
    alone, mixed = (epoch(TrainLoader(dataset, recipe)) for recipe in (plain, plain.replace(mixup=1.0)))
    for (images, targets), (blended, both) in zip(alone, mixed, strict=True):
        share = ((blended - images.roll(1, 0)) * (images - images.roll(1, 0))).sum() / (
            images - images.roll(1, 0)
        ).square().sum()
        assert 0.45 <= share <= 0.55
        torch.testing.assert_close(blended, images * share + images.roll(1, 0) * (1 - share), atol=1e-4, rtol=0)
        for i, target in enumerate(both):
            assert torch.equal(target["boxes"], torch.cat([targets[i]["boxes"], targets[i - 1]["boxes"]]))
            assert torch.equal(target["labels"], torch.cat([targets[i]["labels"], targets[i - 1]["labels"]]))


def test_mosaic_and_mixup_stop_at_their_epochs(dataset):
    recipe = RECIPE.replace(
        multiscale_sizes=(),
        mosaic=1.0,
        mixup=1.0,
        augmentation_start_epoch=1,
        mixing_stop_epoch=2,
        augmentation_stop_epoch=3,
    )
    plain = recipe.replace(mosaic=0.0, mixup=0.0)
    same = []
    for number in range(4):
        batches = zip(
            epoch(TrainLoader(dataset, recipe), number), epoch(TrainLoader(dataset, plain), number), strict=True
        )
        same.append(all(torch.equal(one[0], other[0]) for one, other in batches))
    assert same == [True, False, True, True]


def stored_as(folder, mode):
    """A dataset of the same four gray images, stored with one, four or five channels, or with 16 bits."""
    content = many_images(4)
    dataset = DetectionDataset(*write_dataset(folder, content))
    for index in range(4):
        with Image.open(dataset.path(index)) as opened:
            gray = np.asarray(opened.convert("L"))
        if mode == "five":
            np.save(dataset.path(index).with_suffix(".npy"), np.stack([gray] * 5, axis=2))
            content["images"][index]["file_name"] = dataset.path(index).with_suffix(".npy").name
        elif mode == "I;16":
            Image.fromarray(gray.astype(np.uint16) * 257).save(dataset.path(index))
        else:
            bands = [Image.fromarray(gray)] * len(mode)
            Image.merge(mode, bands).save(dataset.path(index))
    dataset.annotations_file.write_text(json.dumps(content))
    return DetectionDataset(dataset.images_dir, dataset.annotations_file)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "I;16"), (1, "I;16"), (4, "RGBA"), (5, "five")])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_images_have_the_channels_of_the_model(tmp_path, channels, mode, mosaic):
    recipe = RECIPE.replace(mosaic=mosaic, mixup=0.5)
    batches = epoch(TrainLoader(stored_as(tmp_path, mode), recipe, num_channels=channels))
    [(images, _)] = batches
    assert images.shape[:2] == (4, channels)
    assert images.std() > 0.05
    if mode == "I;16":
        assert_same(batches, epoch(TrainLoader(stored_as(tmp_path / "plain", "L"), recipe, num_channels=channels)))


def test_more_than_300_objects_in_an_image(tmp_path):
    content = many_images(4)
    content["annotations"] = [annotation(i, 1, 3, [i % 20 + 1, i // 20 + 1, 5, 5]) for i in range(400)]
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    [(_, targets)] = epoch(TrainLoader(dataset, RECIPE.replace(augmentation_stop_epoch=0)))
    assert sorted(len(target["labels"]) for target in targets) == [0, 0, 0, 400]


def test_the_largest_batch_has_the_largest_size_and_most_objects(dataset):
    loader = TrainLoader(dataset, RECIPE)
    loader.set_epoch(1)
    whole = list(loader)
    images, targets = loader.largest_batch()
    assert images.shape == (4, 3, 96, 96)
    counts = sorted(np.diff(dataset.annotations.starts).tolist())
    assert [len(target["labels"]) for target in targets] == counts[::-1][:4]
    assert_same(whole, list(loader))
    dense = TrainLoader(dataset, DENSE, world_size=2, rank=1).largest_batch()
    assert [len(target["labels"]) for target in dense[1]] == [8 * count for count in counts[::-1][:2]]
    pasting = TrainLoader(dataset, RECIPE.replace(copy_paste=1.0, zoom_in=1.0, repeats=2)).largest_batch()
    assert [len(target["labels"]) for target in pasting[1]] == [2 * count for count in counts[::-1][:4]]
    few = TrainLoader(dataset, RECIPE.replace(batch_size=30, multiscale_sizes=(32,))).largest_batch()
    assert few[0].shape == (22, 3, 64, 64)


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


def test_a_killed_worker_is_an_error_on_one_line(dataset):
    before = children()
    loader = TrainLoader(dataset, RECIPE, num_workers=1)
    batches = iter(loader)
    next(batches)
    [worker] = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"system ended a data loading worker, .*; use fewer workers") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_workers_end_with_the_loader(dataset):
    before = children()
    loader = TrainLoader(dataset, RECIPE, num_workers=2)
    epoch(loader)
    assert len(children() - before) == 2
    del loader
    gc.collect()
    assert children() == before


def test_workers_end_with_a_loader_that_failed(dataset):
    before = children()

    def fail():
        loader = TrainLoader(dataset, RECIPE, transforms=lambda image, target: 1 / 0, num_workers=1)
        try:
            epoch(loader)
        except DatasetError as error:
            return error

    error = fail()
    assert error is not None and len(children() - before) == 1
    del error  # its traceback holds the loader, in a circle
    gc.collect()
    assert children() == before


def test_a_program_ends_after_a_partly_read_epoch(tmp_path):
    code = """
import sys; from pathlib import Path
from rtdetr.config import Recipe; from rtdetr.data import DetectionDataset, TrainLoader
from tests.coco_files import many_images, write_dataset
data = DetectionDataset(*write_dataset(Path(sys.argv[1]), many_images(4)))
batches = iter(TrainLoader(data, Recipe(batch_size=1, train_size_hw=(64, 64)), num_workers=1))
next(batches)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, stderr=subprocess.PIPE, timeout=90
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


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
def test_a_broken_image_is_reported_without_a_worker_traceback(tmp_path, workers):
    dataset = DetectionDataset(*write_dataset(tmp_path, many_images(8)))
    dataset.path(3).write_bytes(b"no image")
    loader = TrainLoader(dataset, RECIPE, num_workers=workers)
    with pytest.raises(DatasetError) as caught:
        epoch(loader)
    assert "4.png is not an image in a format that Pillow can read." in str(caught.value)
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


@pytest.mark.parametrize("size", [(1280, 960), (640, 480), (1278, 958)])
def test_a_photo_read_at_reduced_size_is_checked_against_its_annotated_size(tmp_path, size):
    content = many_images(1)
    content["images"][0] |= {"file_name": "photo.jpg", "width": 1280, "height": 960}
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    Image.new("RGB", size, (200, 100, 50)).save(dataset.path(0))
    if size == (1280, 960):
        assert [dataset.load_array(0, reduction=factor)[0].shape for factor in (1, 2, 4, 8)] == [
            (960, 1280, 3),
            (480, 640, 3),
            (240, 320, 3),
            (120, 160, 3),
        ]
    else:
        with pytest.raises(DatasetError, match=r"is annotated as 1280x960 pixels, but .*photo\.jpg is"):
            dataset.load_array(0)
        with pytest.raises(DatasetError, match=r"is annotated as 1280x960 pixels"):
            epoch(TrainLoader(dataset, RECIPE.replace(train_size_hw=(960, 960), augmentation_stop_epoch=0)))
